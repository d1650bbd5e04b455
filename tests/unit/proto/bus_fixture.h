#pragma once

#include <string>

#include "runbus/v1/bus.pb.h"
#include "tests/unit/temporary_directory.h"

// What the tests of the bus share.
namespace runbus::wire {

inline v1::Header make_header(v1::Kind kind, const std::string& call = {}) {
  v1::Header header;
  header.set_kind(kind);
  header.set_call_id(call);
  return header;
}

}  // namespace runbus::wire
