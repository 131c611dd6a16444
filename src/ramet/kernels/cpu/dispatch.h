// Which instruction sets were compiled, which of them this CPU has, and the kernels of the best one.
#pragma once

#include <string>
#include <vector>

#include "types.h"

namespace ramet {

std::vector<std::string> compiled_isas();   // best first
std::vector<std::string> supported_isas();  // of these, what this CPU can run; best first
// The kernels of an instruction set; null if it was not compiled or this CPU lacks it.
const Kernels* kernels_of(const std::string& isa);

}  // namespace ramet
