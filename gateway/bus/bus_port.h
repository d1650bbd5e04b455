#pragma once

#include <string_view>

#include "proto/support/error.h"
#include "runbus/v1/bus.pb.h"

namespace runbus::gateway {

// One broker as the bus client sees it: a wire::BusLink, or a fake in tests. What arrives is handed
// to BusClient's on_connected, on_disconnected and on_message by whoever made the port. send()
// never calls those by itself.
class BusPort {
 public:
  virtual ~BusPort() = default;
  virtual bool connected() const = 0;
  // Connected, and not known to have lost its connection a moment ago.
  virtual bool writable() const { return connected(); }
  // kUnavailable when not connected, kBusy when too much waits (nothing was queued).
  virtual Result<void> send(const v1::Header& header, std::string_view body) = 0;
};

}  // namespace runbus::gateway
