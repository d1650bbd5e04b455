#pragma once

#include <google/protobuf/struct.pb.h>

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "proto/wire/bus_link.h"
#include "services/worker/service.h"

namespace runbus::worker {

struct WorkerOptions {
  std::vector<std::string> brokers;  // endpoints; the worker attaches to each
  wire::CurveKeys curve;             // for tcp endpoints
  std::string node;                  // empty: the host name
  std::string name;                  // for people: "execution"
  std::chrono::seconds drain_timeout{30};
};

// Attaches services to the bus and serves them on one io_context. Reconnects by itself and announces itself again.
class Worker {
 public:
  Worker(boost::asio::io_context& io, WorkerOptions options);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Before start().
  void add(std::unique_ptr<Service> service);
  void start();

  // Publishes an event (at most once; dropped with a log line when no broker is connected).
  void publish(const std::string& topic, google::protobuf::Struct data);

  // Says DRAIN, takes no new calls, and calls `done` when the last has ended or drain_timeout has passed (then
  // the rest is failed with kWorkerLost) and everything was sent.
  void drain(std::function<void()> done);

  const std::string& id() const;
  const std::string& node() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

// A whole worker program: the flags --broker (repeatable), --node, --name, --curve-server-key, --curve-secret-file,
// --log-level; runs until SIGTERM or SIGINT, then drains. Returns the exit code. `make` is called once the flags
// are read.
int run(int argc, char** argv, const std::string& name,
        const std::function<std::vector<std::unique_ptr<Service>>(boost::asio::io_context&, Worker&)>& make);

}  // namespace runbus::worker
