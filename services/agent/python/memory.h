#pragma once

#include <cstdint>

struct RunbusRange;

namespace runbus::agent {

// Reads each page of these ranges, and writes what it read where it may.
void touch(const RunbusRange* ranges, std::uint64_t count);

}  // namespace runbus::agent
