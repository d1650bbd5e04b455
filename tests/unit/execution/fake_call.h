#pragma once

#include <boost/asio/io_context.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "services/worker/call.h"

namespace runbus::testing {

// A call without a bus: keeps what the handler answers, and plays the caller.
class FakeCall final : public worker::Call {
 public:
  FakeCall(boost::asio::io_context& io, std::string method, std::uint64_t credit)
      : io_(io), method_(std::move(method)), credit_(credit) {}

  const std::string& id() const override { return id_; }
  const std::string& method() const override { return method_; }
  const std::string& session_id() const override { return id_; }
  const std::string& principal() const override { return id_; }
  std::chrono::system_clock::time_point deadline() const override {
    return std::chrono::system_clock::time_point::max();
  }
  const v1::Resume* resume() const override { return resumed ? &*resumed : nullptr; }
  void finish(const google::protobuf::Message& response) override;
  void fail(Error error) override;
  bool ended() const override { return ended_; }
  void send(const google::protobuf::Message& item, std::uint64_t offset) override;
  std::uint64_t credit() const override { return credit_ - std::min(credit_, sent_); }
  void on_credit(std::function<void()> callback) override {
    on_credit_ = ended_ ? nullptr : std::move(callback);
  }
  void on_cancel(std::function<void(Error)> callback) override {
    on_cancel_ = ended_ ? nullptr : std::move(callback);
  }
  void on_input(std::function<void(const google::protobuf::Message&)>) override {}

  // The caller's side.
  void grant(std::uint64_t bytes);
  void cancel(ErrorCode reason);

  std::optional<v1::Resume> resumed;
  std::optional<Error> error;
  std::unique_ptr<google::protobuf::Message> response;
  std::vector<std::unique_ptr<google::protobuf::Message>> items;
  std::vector<std::uint64_t> offsets;  // of the items' headers

 private:
  void end();

  boost::asio::io_context& io_;
  std::string id_;
  std::string method_;
  std::uint64_t credit_;
  std::uint64_t sent_ = 0;
  bool ended_ = false;
  std::function<void()> on_credit_;
  std::function<void(Error)> on_cancel_;
};

}  // namespace runbus::testing
