#include "tests/unit/execution/fake_call.h"

#include <gtest/gtest.h>

#include <boost/asio/post.hpp>

namespace runbus::testing {
namespace {

std::unique_ptr<google::protobuf::Message> copy_of(const google::protobuf::Message& message) {
  std::unique_ptr<google::protobuf::Message> copy(message.New());
  copy->CopyFrom(message);
  return copy;
}

}  // namespace

void FakeCall::finish(const google::protobuf::Message& message) {
  ASSERT_FALSE(ended_) << "ended twice";
  response = copy_of(message);
  end();
}

void FakeCall::fail(Error with) {
  ASSERT_FALSE(ended_) << "ended twice";
  error = std::move(with);
  end();
}

void FakeCall::end() {
  ended_ = true;
  const auto credit = std::exchange(on_credit_, nullptr);
  const auto cancel = std::exchange(on_cancel_, nullptr);
}

void FakeCall::send(const google::protobuf::Message& item, std::uint64_t offset) {
  ASSERT_FALSE(ended_) << "an item after the end";
  sent_ += item.ByteSizeLong();
  items.push_back(copy_of(item));
  offsets.push_back(offset);
}

void FakeCall::grant(std::uint64_t bytes) {
  credit_ += bytes;
  boost::asio::post(io_, [this, self = shared_from_this()] {
    if (const auto callback = on_credit_) {
      callback();
    }
  });
}

void FakeCall::cancel(ErrorCode reason) {
  boost::asio::post(io_, [this, self = shared_from_this(), reason] {
    if (ended_) {
      return;
    }
    if (const auto callback = std::exchange(on_cancel_, nullptr)) {
      callback(make_error(reason));
    } else {
      fail(make_error(reason));
    }
  });
}

}  // namespace runbus::testing
