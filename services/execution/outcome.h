#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "runbus/v1/agent.pb.h"
#include "runbus/v1/execution.pb.h"

namespace runbus::execution {

// How an execution ended, in the words of execution.proto.
struct Outcome {
  std::string status;  // "completed", "failed", "timeout" or "cancelled"
  std::optional<std::int32_t> exit_code;
  std::optional<std::string> signal;
  std::optional<std::string> limit;
  std::uint64_t bytes = 0;
  double execution_time = 0;
  double cpu_time = 0;
  std::uint64_t peak_memory = 0;
  bool warm = false;
  std::uint64_t ended_ms = 0;
};

// What the agent says (hostile: odd values give a plain "failed").
Outcome outcome_of(const v1::agent::Exited& exited);

// Fills the members that both results have. `Message` is CodeResult or StreamResult.
template <class Message>
void fill_result(const Outcome& outcome, Message& message) {
  message.set_status(outcome.status);
  if (outcome.exit_code) {
    message.set_exit_code(*outcome.exit_code);
  }
  if (outcome.signal) {
    message.set_signal(*outcome.signal);
  }
  if (outcome.limit) {
    message.set_limit(*outcome.limit);
  }
  message.set_execution_time(outcome.execution_time);
  message.mutable_usage()->set_cpu_time(outcome.cpu_time);
  message.mutable_usage()->set_peak_memory(outcome.peak_memory);
  message.mutable_usage()->set_warm(outcome.warm);
  message.mutable_timestamp()->set_seconds(static_cast<std::int64_t>(outcome.ended_ms / 1000));
  message.mutable_timestamp()->set_nanos(
      static_cast<std::int32_t>(outcome.ended_ms % 1000 * 1'000'000));
}

// "SIGKILL" of 9; "SIG34" of a number without a name.
std::string signal_name(int signal);
// The number of "SIGINT" or "INT", in any case; nothing for one that clients may not send.
std::optional<int> signal_number(std::string_view name);

}  // namespace runbus::execution
