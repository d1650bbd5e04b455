#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "proto/support/unique_fd.h"
#include "proto/wire/agent_frame.h"
#include "runbus/v1/agent.pb.h"

// A blocking worker's end of the protocol, small enough to be believed.
namespace runbus::agent_test {

namespace v1 = ::runbus::v1::agent;

class TestClient {
 public:
  struct Received {
    v1::AgentReply reply;
    std::string payload;
  };

  explicit TestClient(const std::string& socket_path);

  void send(const v1::AgentRequest& request, std::string_view payload = {});
  void send_raw(std::string_view bytes);
  // Sends with a new request id and waits for its answer; what comes before it is kept for next().
  v1::AgentReply call(v1::AgentRequest request, std::string_view payload = {});
  // The next frame that is not an answer to call(). Empty when the agent hung up or the patience
  // ended.
  std::optional<Received> next();
  // Whether the agent hung up, sooner or later.
  bool wait_for_hangup();

  v1::AgentReply spawn(const v1::Spawn& spawn);
  // Both requests in one go, so that not a byte is read before the attachment is there.
  void spawn_attached(const v1::Spawn& spawn, std::uint64_t credit);
  v1::AgentReply attach(const std::string& id, std::uint64_t offset, std::uint64_t credit);
  void credit(const std::string& id, std::uint64_t credit);
  v1::AgentReply kill(const std::string& id, const std::string& reason);
  v1::AgentReply input(const std::string& id, std::string_view bytes, bool eof);
  v1::AgentReply write_file(const std::string& path, std::string_view content, bool append = false);
  std::optional<v1::Listing::Entry> entry(const std::string& id);

 private:
  std::optional<Received> receive();

  UniqueFd fd_;
  wire::FrameParser parser_;
  std::uint64_t next_id_ = 1;
  std::deque<Received> kept_;
};

// What an attachment got until Exited, checked for order: offsets follow on without a hole that is
// no Gap.
struct Stream {
  std::string out;
  std::string err;
  std::string all;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> gaps;
  std::uint64_t end = 0;
  bool in_order = true;
  bool complete = false;  // Exited came
  v1::Exited exited;
};

inline constexpr std::uint64_t kPlenty = 1ULL << 40;

// Reads one execution to its end; grants more credit in steps of `grant` when that is not 0.
Stream read_to_end(TestClient& client, const std::string& id, std::uint64_t offset = 0,
                   std::uint64_t grant = 0);
// Attaches with plenty of credit and reads to the end.
Stream attach_and_read(TestClient& client, const std::string& id, std::uint64_t offset = 0);

v1::Step shell(const std::string& script);
v1::Spawn shell_execution(const std::string& id, const std::string& script);
// Spawns and reads to the end.
Stream run(TestClient& client, const v1::Spawn& spawn);

}  // namespace runbus::agent_test
