#pragma once

#include <boost/asio/io_context.hpp>

#include "services/worker/service.h"

namespace example {

// example.echo.v1.EchoService: what a service of one's own looks like.
class EchoService : public runbus::worker::Service {
 public:
  explicit EchoService(boost::asio::io_context& io);
};

}  // namespace example
