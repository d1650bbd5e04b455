#pragma once

#include <cstdint>

#include "services/agent/parent/large_pages.h"

namespace runbus::agent {

// Reads each page of these ranges, and writes what it read where it may.
void touch(const MemoryRange* ranges, std::uint64_t count);

}  // namespace runbus::agent
