#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace runbus::gateway {

// The answers of one batch (JSON-RPC 2.0 §6), gathered in the order in which they come.
class RpcBatch {
 public:
  explicit RpcBatch(std::size_t max_bytes) : max_bytes_(max_bytes) {}

  void expect() { ++expected_; }
  // `id` is of the call that `answer` is for. An answer that no longer fits is replaced by an
  // error.
  void add(std::string_view id, std::string_view answer);
  bool complete() const { return expected_ == 0; }
  bool empty() const { return text_.empty(); }
  // The array; once, when complete.
  std::string take();

 private:
  std::size_t max_bytes_;
  std::size_t expected_ = 0;
  std::string text_;
};

}  // namespace runbus::gateway
