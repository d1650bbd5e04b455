#include "tests/unit/agent/test_client.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <stdexcept>

#include "tests/unit/agent/agent_process.h"

namespace runbus::agent_test {

TestClient::TestClient(const std::string& socket_path)
    : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, socket_path.c_str(), sizeof(address.sun_path) - 1);
  if (::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    throw std::runtime_error("cannot connect to " + socket_path);
  }
}

void TestClient::send(const v1::AgentRequest& request, std::string_view payload) {
  std::string frame;
  ASSERT_TRUE(wire::append_frame(frame, request, payload));
  send_raw(frame);
}

void TestClient::send_raw(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t size = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (size <= 0) {
      return;  // hung up; the test sees it when it reads
    }
    bytes.remove_prefix(static_cast<std::size_t>(size));
  }
}

std::optional<TestClient::Received> TestClient::receive() {
  for (;;) {
    wire::FrameParser::Frame frame;
    const auto status = parser_.next(frame);
    if (status == wire::FrameParser::Status::kFrame) {
      Received received;
      if (!received.reply.ParseFromArray(frame.message.data(),
                                         static_cast<int>(frame.message.size()))) {
        return std::nullopt;
      }
      received.payload = frame.payload;
      return received;
    }
    pollfd ready{fd_.get(), POLLIN, 0};
    if (status == wire::FrameParser::Status::kBroken ||
        ::poll(&ready, 1, kPatienceSeconds * 1000) <= 0) {
      return std::nullopt;
    }
    const auto room = parser_.prepare(256 * 1024);
    const ssize_t size = ::read(fd_.get(), room.data(), room.size());
    if (size <= 0) {
      return std::nullopt;
    }
    parser_.commit(static_cast<std::size_t>(size));
  }
}

v1::AgentReply TestClient::call(v1::AgentRequest request, std::string_view payload) {
  const std::uint64_t id = next_id_++;
  request.set_request_id(id);
  send(request, payload);
  while (auto received = receive()) {
    if (received->reply.request_id() == id) {
      return received->reply;
    }
    kept_.push_back(std::move(*received));
  }
  ADD_FAILURE() << "no answer to " << request.ShortDebugString();
  return {};
}

std::optional<TestClient::Received> TestClient::next() {
  if (!kept_.empty()) {
    Received first = std::move(kept_.front());
    kept_.pop_front();
    return first;
  }
  return receive();
}

bool TestClient::wait_for_hangup() {
  while (receive()) {
  }
  char byte = 0;
  return ::recv(fd_.get(), &byte, 1, MSG_DONTWAIT) == 0 || errno == ECONNRESET;
}

v1::AgentReply TestClient::spawn(const v1::Spawn& spawn) {
  v1::AgentRequest request;
  *request.mutable_spawn() = spawn;
  return call(std::move(request));
}

void TestClient::spawn_attached(const v1::Spawn& spawn, std::uint64_t credit) {
  v1::AgentRequest request;
  *request.mutable_spawn() = spawn;
  std::string frames;
  ASSERT_TRUE(wire::append_frame(frames, request));
  request.Clear();
  request.mutable_attach()->set_execution_id(spawn.execution_id());
  request.mutable_attach()->set_credit(credit);
  ASSERT_TRUE(wire::append_frame(frames, request));
  send_raw(frames);
}

v1::AgentReply TestClient::attach(const std::string& id, std::uint64_t offset,
                                  std::uint64_t credit) {
  v1::AgentRequest request;
  request.mutable_attach()->set_execution_id(id);
  request.mutable_attach()->set_offset(offset);
  request.mutable_attach()->set_credit(credit);
  return call(std::move(request));
}

void TestClient::credit(const std::string& id, std::uint64_t credit) {
  v1::AgentRequest request;
  request.mutable_credit()->set_execution_id(id);
  request.mutable_credit()->set_credit(credit);
  send(request);
}

v1::AgentReply TestClient::kill(const std::string& id, const std::string& reason) {
  v1::AgentRequest request;
  request.mutable_kill()->set_execution_id(id);
  request.mutable_kill()->set_reason(reason);
  return call(std::move(request));
}

v1::AgentReply TestClient::input(const std::string& id, std::string_view bytes, bool eof) {
  v1::AgentRequest request;
  request.mutable_input()->set_execution_id(id);
  request.mutable_input()->set_eof(eof);
  return call(std::move(request), bytes);
}

v1::AgentReply TestClient::write_file(const std::string& path, std::string_view content,
                                      bool append) {
  v1::AgentRequest request;
  request.mutable_write_file()->set_path(path);
  request.mutable_write_file()->set_append(append);
  return call(std::move(request), content);
}

std::optional<v1::Listing::Entry> TestClient::entry(const std::string& id) {
  v1::AgentRequest request;
  request.mutable_list();
  const v1::AgentReply reply = call(std::move(request));
  for (const auto& entry : reply.listing().entries()) {
    if (entry.execution_id() == id) {
      return entry;
    }
  }
  return std::nullopt;
}

Stream read_to_end(TestClient& client, const std::string& id, std::uint64_t offset,
                   std::uint64_t grant) {
  Stream stream;
  stream.end = offset;
  std::uint64_t granted = grant;
  std::uint64_t got = 0;
  while (auto received = client.next()) {
    const v1::AgentReply& reply = received->reply;
    if (reply.has_output() && reply.output().execution_id() == id) {
      stream.in_order = stream.in_order && reply.output().offset() == stream.end;
      stream.end += received->payload.size();
      got += received->payload.size();
      (reply.output().stream() == 1 ? stream.out : stream.err) += received->payload;
      stream.all += received->payload;
      if (grant != 0 && granted - got < grant / 2) {
        granted += grant;
        client.credit(id, granted);
      }
    } else if (reply.has_gap() && reply.gap().execution_id() == id) {
      stream.in_order = stream.in_order && reply.gap().from() == stream.end;
      stream.gaps.emplace_back(reply.gap().from(), reply.gap().to());
      stream.end = reply.gap().to();
    } else if (reply.has_exited() && reply.exited().execution_id() == id) {
      stream.exited = reply.exited();
      stream.complete = true;
      break;
    }
  }
  EXPECT_TRUE(stream.complete) << "no Exited for " << id;
  EXPECT_TRUE(stream.in_order);
  EXPECT_EQ(stream.end, stream.exited.end_offset());
  return stream;
}

Stream attach_and_read(TestClient& client, const std::string& id, std::uint64_t offset) {
  const v1::AgentReply reply = client.attach(id, offset, kPlenty);
  EXPECT_TRUE(reply.has_attached()) << reply.ShortDebugString();
  return read_to_end(client, id, offset);
}

v1::Step shell(const std::string& script) {
  v1::Step step;
  for (const char* argument : {"sh", "-c"}) {
    step.add_argv(argument);
  }
  step.add_argv(script);
  step.add_environment("PATH=/usr/bin:/bin");
  return step;
}

v1::Spawn shell_execution(const std::string& id, const std::string& script) {
  v1::Spawn spawn;
  spawn.set_execution_id(id);
  *spawn.add_steps() = shell(script);
  return spawn;
}

Stream run(TestClient& client, const v1::Spawn& spawn) {
  const v1::AgentReply reply = client.spawn(spawn);
  EXPECT_TRUE(reply.has_done()) << reply.ShortDebugString();
  return attach_and_read(client, spawn.execution_id());
}

}  // namespace runbus::agent_test
