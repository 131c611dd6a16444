#include "token_trie.h"

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>

namespace ramet {

void ByteAutomaton::refuse(int32_t to) {
    throw std::invalid_argument("a transition leads to " + std::to_string(to) + ", which is no state");
}

// Where nearly everything is allowed, a walk would visit nearly all nodes. This knows, for the states that tokens
// reach first, sets of bytes of which no string up to some length dies. If the bytes below a node are such a set, all
// tokens below are allowed. It holds for states that loop as well as for those that count or search on the way.
class TokenTrie::Safety {
public:
    Safety(const ByteAutomaton& automaton, int32_t state)
        : automaton_(automaton),
          places_(size_t(automaton.num_states), UNKNOWN),
          classes_(size_t(automaton.num_classes)) {
        for (size_t i = 0; i < classes_.size(); ++i) classes_[i].number = int64_t(i);
        for (size_t byte = 0; byte < 256; ++byte) classes_[automaton.classes[byte]].bytes.set(byte);
        sort_broadest_first(classes_);
        known_.reserve(MAX_KNOWN);
        // First along the broadest road as far as a token may reach, then what lies beside it.
        for (int step = 0; step < MAX_HEIGHT && add(state) && !known_.back().roads.empty(); ++step)
            state = known_.back().roads.front().to;
        for (size_t i = 0; i < known_.size(); ++i)
            for (const Road& road : known_[i].roads) add(road.to);
        for (int height = 1; height <= MAX_HEIGHT; ++height)
            for (Known& from : known_) from.safe[size_t(height)] = safe_bytes(from, height);
    }

    // Whether no string over the bytes of `subtree`, and as long as it is high, dies from `state`. May say no
    // though it is so.
    bool covers(int32_t state, const Subtree& subtree) const {
        const int place = places_[size_t(state)];
        return place != UNKNOWN && subtree.height <= MAX_HEIGHT &&
               (subtree.bytes & ~known_[size_t(place)].safe[size_t(subtree.height)]).none();
    }

private:
    static constexpr int MAX_HEIGHT = 24, MAX_KNOWN = 64, MAX_ROADS = 6, UNKNOWN = -1;

    struct ByteClass {
        int64_t number = 0;
        ByteSet bytes;
    };
    struct Road {  // the bytes from one state to another
        int32_t to;
        ByteSet bytes;
    };
    struct Known {
        std::vector<Road> roads;                   // the broadest ones, in that order
        std::array<ByteSet, MAX_HEIGHT + 1> safe;  // by the length of the strings
    };

    template <class Ranges>
    static void sort_broadest_first(Ranges& ranges) {
        std::stable_sort(ranges.begin(), ranges.end(),
                         [](const auto& a, const auto& b) { return a.bytes.count() > b.bytes.count(); });
    }

    // False if the state is known or there is no room.
    bool add(int32_t state) {
        if (known_.size() == size_t(MAX_KNOWN) || places_[size_t(state)] != UNKNOWN) return false;
        places_[size_t(state)] = int8_t(known_.size());
        Known& known = known_.emplace_back();
        known.safe[0].set();
        std::vector<Road>& roads = known.roads;
        for (const ByteClass& byte_class : classes_) {
            const int32_t to = automaton_.next_by_class(state, byte_class.number);
            if (to == ByteAutomaton::DEAD) continue;
            auto road = std::find_if(roads.begin(), roads.end(), [&](const Road& other) { return other.to == to; });
            if (road != roads.end())
                road->bytes |= byte_class.bytes;
            else if (roads.size() < size_t(4 * MAX_ROADS))  // more would be narrow, and take time
                roads.push_back({to, byte_class.bytes});
        }
        sort_broadest_first(roads);
        if (roads.size() > size_t(MAX_ROADS)) roads.resize(size_t(MAX_ROADS));
        return true;
    }

    // Safe are bytes on known roads if what they lead to is safe for all of them, one byte less far.
    ByteSet safe_bytes(const Known& from, int height) const {
        ByteSet safe, limit;
        limit.set();  // safe behind every road taken so far
        for (const Road& road : from.roads) {
            const int place = places_[size_t(road.to)];
            if (place == UNKNOWN) continue;
            const ByteSet& behind = known_[size_t(place)].safe[size_t(height) - 1];
            if ((safe & ~behind).any()) continue;  // this road would cost bytes of broader ones
            limit &= behind;
            safe |= road.bytes & limit;
        }
        return safe;
    }

    const ByteAutomaton& automaton_;
    std::vector<int8_t> places_;  // of each state in known_
    std::vector<ByteClass> classes_;  // the broadest first
    std::vector<Known> known_;
};

TokenTrie::TokenTrie(const uint8_t* bytes, const int32_t* depths, int64_t num_nodes, const int32_t* node_of_token,
                     int64_t vocab_size)
    : vocab_size_(vocab_size) {
    if (num_nodes >= INT32_MAX || vocab_size >= INT32_MAX) throw std::invalid_argument("the trie is too large");
    nodes_.reserve(size_t(num_nodes));
    int32_t previous = -1;
    for (int64_t node = 0; node < num_nodes; ++node) {
        const int32_t depth = depths[node];
        if (depth < 0 || depth > previous + 1 || depth > MAX_DEPTH)
            throw std::invalid_argument("the depths are not those of nodes in depth-first order");
        nodes_.push_back(Node(depth) << DEPTH_SHIFT | bytes[node]);
        max_len_ = std::max(max_len_, size_t(depth) + 1);
        previous = depth;
    }
    order_tokens(node_of_token);
    find_subtrees();
}

void TokenTrie::order_tokens(const int32_t* node_of_token) {
    token_begins_.resize(nodes_.size() + 1);
    for (int64_t token = 0; token < vocab_size_; ++token) {
        const int32_t node = node_of_token[token];
        if (node < -1 || node >= int64_t(nodes_.size())) throw std::invalid_argument("a token ends at no node");
        if (node < 0) continue;
        nodes_[size_t(node)] |= ENDS;
        ++token_begins_[size_t(node) + 1];
    }
    for (size_t node = 0; node < nodes_.size(); ++node) token_begins_[node + 1] += token_begins_[node];
    token_ids_.resize(size_t(token_begins_.back()));
    std::vector<int32_t> next(token_begins_.begin(), token_begins_.end() - 1);
    for (int64_t token = 0; token < vocab_size_; ++token)
        if (node_of_token[token] >= 0) token_ids_[size_t(next[size_t(node_of_token[token])]++)] = int32_t(token);
}

void TokenTrie::find_subtrees() {
    const auto num_nodes = int32_t(nodes_.size());
    ends_.resize(nodes_.size());
    listed_at_.resize(nodes_.size());
    std::vector<Subtree> below(max_len_ + 1);  // by depth: what was met under the parent that is still to come
    for (int32_t node = num_nodes - 1; node >= 0; --node) {
        const size_t depth = nodes_[size_t(node)] >> DEPTH_SHIFT;
        int32_t end = node + 1;
        while (end < num_nodes && nodes_[size_t(end)] >> DEPTH_SHIFT > depth) end = ends_[size_t(end)];
        ends_[size_t(node)] = end;
        Subtree subtree = below[depth + 1];
        below[depth + 1] = Subtree{};
        if (token_begins_[size_t(end)] - token_begins_[size_t(node) + 1] >= LISTED_TOKENS) {
            nodes_[size_t(node)] |= LISTED;
            listed_at_[size_t(node)] = int32_t(subtrees_.size());
            subtrees_.push_back(subtree);
        }
        subtree.bytes.set(nodes_[size_t(node)] & 0xFF);
        below[depth].bytes |= subtree.bytes;
        below[depth].height = std::max(below[depth].height, subtree.height + 1);
    }
}

template <class Take>
void TokenTrie::walk(const ByteAutomaton& automaton, int32_t state, int32_t begin, int32_t end,
                     const Take& take) const {
    if (begin >= end) return;
    std::optional<Safety> safety;              // many walks never meet a node that needs it
    std::vector<int32_t> states(max_len_ + 1);  // by depth: before the byte of a node there
    states[nodes_[size_t(begin)] >> DEPTH_SHIFT] = state;
    for (int32_t at = begin; at < end;) {
        const Node node = nodes_[size_t(at)];
        const size_t depth = node >> DEPTH_SHIFT;
        const int32_t next = automaton.next(states[depth], uint8_t(node & 0xFF));
        if (next == ByteAutomaton::DEAD) {
            at = ends_[size_t(at)];
            continue;
        }
        states[depth + 1] = next;
        const int32_t first = at++;
        if (!(node & (ENDS | LISTED))) continue;
        if (node & LISTED) {
            if (!safety) safety.emplace(automaton, state);
            if (safety->covers(next, subtrees_[size_t(listed_at_[size_t(first)])])) at = ends_[size_t(first)];
        }
        if (!take(token_begins_[size_t(first)], token_begins_[size_t(at)])) return;
    }
}

void TokenTrie::allowed(const ByteAutomaton& automaton, int32_t state, uint32_t* words) const {
    std::fill_n(words, num_words(), 0u);
    walk(automaton, state, 0, int32_t(nodes_.size()), [&](int32_t begin, int32_t end) {
        for (int32_t i = begin; i < end; ++i) {
            const auto token = uint32_t(token_ids_[size_t(i)]);
            words[token / 32] |= 1u << token % 32;
        }
        return true;
    });
}

bool TokenTrie::crosses(const ByteAutomaton& automaton, int32_t state, const uint8_t* tail, size_t tail_len) const {
    int32_t begin = 0, end = int32_t(nodes_.size());
    for (size_t i = 0; i < tail_len; ++i) {
        while (begin < end && (nodes_[size_t(begin)] & 0xFF) != tail[i]) begin = ends_[size_t(begin)];
        if (begin >= end) return false;
        end = ends_[size_t(begin)];
        ++begin;
    }
    bool found = false;
    walk(automaton, state, begin, end, [&](int32_t first, int32_t last) {
        found = first < last;
        return !found;
    });
    return found;
}

}  // namespace ramet
