// The tokens of a vocabulary as a trie of their bytes, and which of them an automaton allows.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <vector>

namespace ramet {

// A deterministic automaton over bytes, as `ramet.grammar.automaton.Dfa` has it: at most INT32_MAX states, every
// class below num_classes. A transition that is neither a state nor DEAD is found when it is met.
struct ByteAutomaton {
    static constexpr int32_t DEAD = -1;

    std::array<uint8_t, 256> classes;  // of each byte
    const int32_t* transitions;        // [num_states, num_classes]
    int64_t num_states, num_classes;

    // The state after a byte, or DEAD. Throws std::invalid_argument if the transition is neither.
    int32_t next(int32_t state, uint8_t byte) const { return next_by_class(state, classes[byte]); }
    int32_t next_by_class(int32_t state, int64_t byte_class) const {
        const int32_t to = transitions[state * num_classes + byte_class];
        if (to >= num_states || to < DEAD) refuse(to);
        return to;
    }

private:
    [[noreturn]] static void refuse(int32_t to);
};

// Nodes stand depth-first, so that a subtree is a range of them. Never changed once made: safe to share.
class TokenTrie {
public:
    // One node per byte. `depths` are 0 for first bytes, and at most one more than that of the node before.
    // `node_of_token` says where each token ends, -1 for one without text.
    // Throws std::invalid_argument for arrays that describe no trie.
    TokenTrie(const uint8_t* bytes, const int32_t* depths, int64_t num_nodes, const int32_t* node_of_token,
              int64_t vocab_size);

    int64_t num_words() const { return (vocab_size_ + 31) / 32; }

    // Writes `words` [num_words]: bit t % 32 of word t / 32 says whether token t keeps the automaton alive.
    void allowed(const ByteAutomaton& automaton, int32_t state, uint32_t* words) const;

    // Whether some token is `tail` and at least one byte more, and what is more keeps the automaton alive.
    bool crosses(const ByteAutomaton& automaton, int32_t state, const uint8_t* tail, size_t tail_len) const;

private:
    class Safety;
    using ByteSet = std::bitset<256>;

    // What is read at every node, in one word: its byte, whether tokens end here, whether it is listed in
    // `subtrees_`, and its depth.
    using Node = uint32_t;
    static constexpr Node ENDS = 1u << 8, LISTED = 1u << 9;
    static constexpr int DEPTH_SHIFT = 10;
    static constexpr int32_t MAX_DEPTH = (1 << (32 - DEPTH_SHIFT)) - 1;
    static constexpr int32_t LISTED_TOKENS = 16;  // that many tokens below a node are worth a look at all of them

    // What is below a node: the bytes that occur there, and how many follow each other.
    struct Subtree {
        int32_t height = 0;
        ByteSet bytes;
    };

    std::vector<Node> nodes_;
    std::vector<int32_t> ends_;          // [num_nodes] the first node after the subtree
    std::vector<int32_t> token_begins_;  // [num_nodes + 1] of the node's tokens in token_ids_
    std::vector<int32_t> token_ids_;     // ordered by node
    std::vector<int32_t> listed_at_;     // [num_nodes] the place in subtrees_
    std::vector<Subtree> subtrees_;
    int64_t vocab_size_;
    size_t max_len_ = 0;  // of the longest token

    void order_tokens(const int32_t* node_of_token);
    void find_subtrees();

    // Visits those of the nodes begin .. end - 1 that `state` reaches alive; `begin` is the first child of the node
    // where the automaton is in `state`. Calls take(token ids begin, end) for the tokens there until it is false.
    template <class Take>
    void walk(const ByteAutomaton& automaton, int32_t state, int32_t begin, int32_t end, const Take& take) const;
};

}  // namespace ramet
