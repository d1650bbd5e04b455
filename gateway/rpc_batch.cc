#include "gateway/rpc_batch.h"

#include <utility>

#include "gateway/rpc_reply.h"

namespace runbus::gateway {

void RpcBatch::add(std::string_view id, std::string_view answer) {
  --expected_;
  text_.push_back(text_.empty() ? '[' : ',');
  if (text_.size() + answer.size() <= max_bytes_) {
    text_.append(answer);
    return;
  }
  Error error = make_error(ErrorCode::kQuota, "the answers of the batch are too large together");
  error.limit = "batch_bytes";
  text_.append(error_reply(id, error));
}

std::string RpcBatch::take() {
  text_.push_back(']');
  return std::exchange(text_, {});
}

}  // namespace runbus::gateway
