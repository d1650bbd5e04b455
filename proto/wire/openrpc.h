#pragma once

#include <string>
#include <vector>

#include "proto/wire/catalog.h"

namespace runbus::wire {

// OpenRPC 1.2 document of `methods`: params by name, schemas of their types under
// components.schemas (so that a recursive type is one reference), and, beyond OpenRPC,
// "x-streaming", "x-client-streaming", "x-notifications", "x-aliases" and "x-idempotent".
std::string make_openrpc(const std::vector<const Method*>& methods);

}  // namespace runbus::wire
