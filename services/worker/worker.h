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

namespace CLI {
class App;
}  // namespace CLI

namespace runbus::worker {

struct WorkerOptions {
  std::vector<std::string> brokers;  // endpoints; the worker attaches to each
  wire::CurveKeys curve;             // for tcp endpoints
  std::string node;                  // empty: the host name
  std::string name;                  // for people: "execution"
  std::chrono::seconds drain_timeout{30};
};

// Attaches services to the bus and serves them on one io_context, whose one thread makes, uses and
// destroys the Worker. Reconnects by itself and announces itself again. A CALL that comes twice is
// run once: what was kept of its answer is sent again (for 60 seconds after its end).
class Worker {
 public:
  Worker(boost::asio::io_context& io, WorkerOptions options);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Before start().
  void add(std::unique_ptr<Service> service);
  // Called each time a broker has welcomed this worker. Before start().
  void on_attached(std::function<void()> callback);
  // Called when a broker asks this worker to leave; without it the worker drains itself. Before
  // start().
  void on_drain_request(std::function<void()> callback);
  // Throws std::logic_error for a service that is not complete, std::invalid_argument for unusable
  // options.
  void start();

  // Publishes an event (at most once; dropped with a log line when no broker is connected). It
  // leaves with the next message, within milliseconds.
  void publish(const std::string& topic, google::protobuf::Struct data);

  // Brokers are told that a session lives on this node, so that each of them, and one that has just
  // started, sends its calls here. For sessions of an earlier process; those that calls come for
  // are noted by themselves. The 16384 that were used last are remembered.
  void hold_session(const std::string& session_id);
  // The session has ended: it is not named any more when this worker introduces itself.
  void let_go_of_session(const std::string& session_id);

  // Says DRAIN, so that brokers give it no new calls (one that crossed it on the wire is still
  // served), and calls `done` when the last has ended or drain_timeout has passed (then the rest is
  // failed with kWorkerLost) and everything was sent. The worker has left the bus then.
  void drain(std::function<void()> done);

  const std::string& id() const;
  const std::string& node() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

// A whole worker program: the flags --broker (repeatable), --node, --name, --curve-server-key,
// --curve-secret-file,
// --drain-timeout, --log-level, --ready-fd (a descriptor that gets the line "ready" and is closed
// once a broker has welcomed the worker); runs until SIGTERM, SIGINT or a broker's DRAIN, then
// drains; a second signal ends it at once. Returns the exit code: 0 after a drain. `add_flags` may
// add flags of the services' own; `make` is called once all flags are read.
int run(int argc, char** argv, const std::string& name,
        const std::function<std::vector<std::unique_ptr<Service>>(boost::asio::io_context&,
                                                                  Worker&)>& make,
        const std::function<void(CLI::App&)>& add_flags = {});

}  // namespace runbus::worker
