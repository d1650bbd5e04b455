#include "tools/examples/echo_cpp/echo_service.h"

#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "echo.pb.h"

namespace example {
namespace {

namespace v1 = example::echo::v1;
using runbus::Error;
using runbus::ErrorCode;
using runbus::make_error;
using runbus::worker::CallPtr;

constexpr std::uint32_t kMaxPadding = 65'536;

// One echo.count: sends as long as there is credit, waits for more when there is none, and lets the
// loop serve others in between. The call's callbacks hold it alive; they go when the call ends.
class Counter : public std::enable_shared_from_this<Counter> {
 public:
  Counter(boost::asio::io_context& io, CallPtr call, const v1::CountRequest& request)
      : call_(std::move(call)), timer_(io), request_(request), padding_(request.padding(), '.') {}

  void start() {
    call_->on_credit([self = shared_from_this()] { self->go_on(); });
    call_->on_cancel([self = shared_from_this()](Error reason) {
      self->timer_.cancel();
      self->call_->fail(std::move(reason));
    });
    go_on();
  }

 private:
  // After each item it comes back by the timer, never two at once.
  void go_on() {
    if (waiting_ || call_->ended()) {
      return;
    }
    if (counted_ == request_.to()) {
      v1::CountItem last;
      last.mutable_result()->set_counted(counted_);
      call_->finish(last);
      return;
    }
    v1::CountItem item;
    item.mutable_counted()->set_number(counted_ + 1);
    item.mutable_counted()->set_padding(padding_);
    if (item.ByteSizeLong() > call_->credit() && counted_ > 0) {
      return;  // on_credit goes on; the first item is for the SDK to judge
    }
    ++counted_;
    call_->send(item);
    waiting_ = true;
    timer_.expires_after(std::chrono::milliseconds(request_.interval_ms()));
    timer_.async_wait([self = shared_from_this()](const boost::system::error_code& error) {
      self->waiting_ = false;
      if (!error) {
        self->go_on();
      }
    });
  }

  CallPtr call_;
  boost::asio::steady_timer timer_;
  v1::CountRequest request_;
  std::string padding_;
  std::uint32_t counted_ = 0;
  bool waiting_ = false;
};

void say(const CallPtr& call, const v1::SayRequest& request) {
  v1::SayResponse response;
  response.set_text(request.text());
  call->finish(response);
}

void chat(const CallPtr& call, const v1::ChatRequest& first) {
  const auto messages = std::make_shared<std::uint32_t>(0);
  const auto answer = [call, messages](const v1::ChatRequest& request) {
    ++*messages;
    v1::ChatItem item;
    item.mutable_said()->set_text(request.text());
    call->send(item);
    if (request.done()) {
      v1::ChatItem last;
      last.mutable_result()->set_messages(*messages);
      call->finish(last);
    }
  };
  call->on_input([answer](const google::protobuf::Message& request) {
    answer(static_cast<const v1::ChatRequest&>(request));
  });
  answer(first);
}

}  // namespace

EchoService::EchoService(boost::asio::io_context& io)
    : Service(*v1::SayRequest::descriptor()->file()->FindServiceByName("EchoService"), 256) {
  on<v1::SayRequest>("Say", say);
  on<v1::CountRequest>("Count", [&io](CallPtr call, const v1::CountRequest& request) {
    if (request.padding() > kMaxPadding) {
      call->fail(make_error(ErrorCode::kInvalidParams,
                            "padding: " + std::to_string(request.padding()) + " is more than " +
                                std::to_string(kMaxPadding)));
      return;
    }
    std::make_shared<Counter>(io, std::move(call), request)->start();
  });
  on<v1::ChatRequest>("Chat", chat);
}

}  // namespace example
