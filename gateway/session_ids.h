#pragma once

#include <google/protobuf/message.h>

#include <deque>
#include <string>
#include <unordered_map>

#include "proto/support/error.h"
#include "proto/wire/catalog.h"

namespace runbus::gateway {

// The session of one connection, and which session the things it made are in: fills the members of
// a request that have a FieldRole (proto/runbus/v1/options.proto).
class SessionIds {
 public:
  // The connection's own session; made on first use.
  const std::string& own();
  // Whether a call ran in it, so that it has to be released.
  bool own_used() const { return own_used_; }

  // Fills what the client left empty and returns the session the call runs in, empty when the rpc
  // knows none.
  Result<std::string> fill(const wire::Method& method, google::protobuf::Message& request);

 private:
  void remember(const std::string& thing, const std::string& session);

  std::string own_;
  bool own_used_ = false;
  // Only things in other sessions than the own one; the oldest makes room.
  std::unordered_map<std::string, std::string> made_;
  std::deque<std::string> order_;
};

}  // namespace runbus::gateway
