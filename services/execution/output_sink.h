#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "services/execution/outcome.h"
#include "services/execution/utf8_splitter.h"
#include "services/worker/call.h"

namespace runbus::execution {

// Where an execution's output goes. room() is what the agent may still send: a sink that gives none
// makes the program block in write.
class OutputSink {
 public:
  virtual ~OutputSink() = default;
  // Once, before anything else.
  virtual void started(const std::string& language) = 0;
  virtual void output(int stream, std::uint64_t offset, std::string_view bytes) = 0;
  virtual void gap(std::uint64_t from, std::uint64_t to) = 0;
  // Ends the call when everything was handed over.
  virtual void finish(const Outcome& outcome) = 0;
  // The same with an error.
  virtual void fail(Error error) = 0;
  // Bytes that may come beyond those that have.
  virtual std::uint64_t room() const = 0;
  // Called when room() has grown.
  virtual void on_room(std::function<void()> callback) = 0;
};

// What a sink says of its execution.
struct SinkIds {
  std::string execution_id;
  std::string session_id;
};

// Sends the items of a CodeStream as the call's reader grants credit; holds at most 256 KiB until
// then. `quiet_start`: the reader has seen execute.started already (a resumed call).
std::shared_ptr<OutputSink> make_stream_sink(worker::CallPtr call,
                                             boost::asio::any_io_executor executor, SinkIds ids,
                                             bool quiet_start);

// Collects up to `max_output` bytes of each stream for a CodeResult, and reads on past them.
std::shared_ptr<OutputSink> make_collect_sink(worker::CallPtr call, SinkIds ids,
                                              std::uint64_t max_output);

// Takes everything and keeps nothing: for an execution whose call has ended and that is being
// killed.
std::shared_ptr<OutputSink> make_null_sink();

}  // namespace runbus::execution
