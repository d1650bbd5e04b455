#pragma once

#include <gmock/gmock.h>

#include <memory>
#include <string>
#include <vector>

#include "services/execution/execution_service.h"
#include "tests/unit/execution/fake_call.h"
#include "tests/unit/session/node_fixture.h"

namespace runbus::testing {

// The service over real sandboxes, called as the worker SDK would.
class ExecutionTest : public ::testing::Test, public NodeFixture {
 protected:
  static constexpr std::uint64_t kPlenty = 1U << 30U;
  using Call = std::shared_ptr<FakeCall>;

  void SetUp() override {
    manager = make_manager();
    session::ArchiveOptions archive_options;
    archive_options.state_dir = state_dir();
    archive = std::make_unique<session::LogArchive>(loop.io, archive_options);
    ASSERT_TRUE(archive->prepare().has_value());
    auto table = execution::parse_languages(R"(
[[language]]
name = "bash"
aliases = ["sh"]
source = ".{run}.main.sh"
run = ["bash", "{source}"]
probe = ["bash", "--version"]
environment = { FROM_TABLE = "yes" }
)");
    toolchain = std::make_unique<execution::Toolchain>(loop.io, table.value(), "");
    execution::ExecutorOptions with;
    with.capacity = 8;
    with.publish = [this](const std::string& topic, const google::protobuf::Struct& data) {
      published.push_back(topic + " " + data.fields().at("execution_id").string_value() + " " +
                          data.fields().at("status").string_value());
    };
    service = std::make_unique<execution::ExecutionService>(loop.io, nullptr, *manager, *archive,
                                                            *toolchain, std::move(with));
    service->check_complete();
  }
  // A second worker process of the same node, as far as the state directory can tell.
  void restart_worker() {
    service.reset();
    toolchain.reset();
    archive.reset();
    manager.reset();
    loop.io.restart();
    SetUp();
  }

  static v1::CodeRequest code(const std::string& text, const std::string& execution = "e",
                              const std::string& session = "s") {
    v1::CodeRequest request;
    request.set_language("bash");
    request.set_code(text);
    request.set_execution_id(execution);
    request.set_session_id(session);
    return request;
  }
  Call start(const std::string& method, const google::protobuf::Message& request,
             std::uint64_t credit = kPlenty, std::optional<v1::Resume> resume = std::nullopt) {
    auto call = std::make_shared<FakeCall>(loop.io, method, credit);
    call->resumed = std::move(resume);
    service->find(method)->handler(call, request);
    return call;
  }
  Call wait_for(const Call& call) {
    EXPECT_TRUE(loop.until([&] { return call->ended(); })) << call->method() << " does not end";
    return call;
  }
  // Runs to the end and gives the response.
  template <class Response>
  Response ask(const std::string& method, const google::protobuf::Message& request) {
    const auto call = wait_for(start(method, request));
    EXPECT_FALSE(call->error.has_value()) << to_string(*call->error);
    Response response;
    if (call->response) {
      response.CopyFrom(*call->response);
    }
    return response;
  }
  v1::CodeResult run(const v1::CodeRequest& request) {
    return ask<v1::CodeResult>("execute.code", request);
  }
  Error refusal(const std::string& method, const google::protobuf::Message& request) {
    const auto call = wait_for(start(method, request));
    return call->error.value_or(Error{});
  }
  static const v1::CodeStream& item(const Call& call, std::size_t index) {
    return static_cast<const v1::CodeStream&>(*call->items.at(index));
  }
  // All output so far; checks that offsets leave no hole.
  static std::string output(const Call& call, std::uint64_t from = 0) {
    std::string joined;
    for (std::size_t index = 0; index < call->items.size(); ++index) {
      if (item(call, index).has_output()) {
        const auto& piece = item(call, index).output();
        EXPECT_EQ(piece.offset(), from + joined.size());
        joined += piece.has_text() ? piece.text() : piece.data();
        EXPECT_EQ(call->offsets[index], from + joined.size());
      }
    }
    return joined;
  }
  static v1::StreamResult result(const Call& call) {
    EXPECT_FALSE(call->error.has_value()) << to_string(*call->error);
    return call->response ? static_cast<const v1::CodeStream&>(*call->response).result()
                          : v1::StreamResult();
  }
  static v1::AttachRequest attach(std::uint64_t offset, const std::string& execution = "e") {
    v1::AttachRequest request;
    request.set_session_id("s");
    request.set_execution_id(execution);
    request.set_offset(offset);
    return request;
  }
  v1::ListResponse list(const std::string& session = "s") {
    v1::ListRequest request;
    request.set_session_id(session);
    return ask<v1::ListResponse>("execute.list", request);
  }
  bool wait_for_output(const Call& call, const std::string& text) {
    return loop.until([&] { return output(call).find(text) != std::string::npos; });
  }

  std::unique_ptr<session::SessionManager> manager;
  std::unique_ptr<session::LogArchive> archive;
  std::unique_ptr<execution::Toolchain> toolchain;
  std::unique_ptr<execution::ExecutionService> service;
  std::vector<std::string> published;
};

}  // namespace runbus::testing
