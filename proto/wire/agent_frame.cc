#include "proto/wire/agent_frame.h"

#include <google/protobuf/message_lite.h>

#include <algorithm>
#include <cstring>

namespace runbus::wire {
namespace {

void put_u32(char* to, std::size_t value) {
  to[0] = static_cast<char>((value >> 24) & 0xff);
  to[1] = static_cast<char>((value >> 16) & 0xff);
  to[2] = static_cast<char>((value >> 8) & 0xff);
  to[3] = static_cast<char>(value & 0xff);
}

std::size_t get_u32(const char* from) {
  const auto byte = [from](int i) {
    return static_cast<std::size_t>(static_cast<unsigned char>(from[i]));
  };
  return (byte(0) << 24) | (byte(1) << 16) | (byte(2) << 8) | byte(3);
}

// A buffer that grew for one large frame is given back once it is empty.
constexpr std::size_t kKeptBuffer = 256 * 1024;

}  // namespace

bool append_frame_head(std::string& out, const google::protobuf::MessageLite& message,
                       std::size_t payload_size) {
  const std::size_t message_size = message.ByteSizeLong();
  if (message_size > kMaxAgentMessage || payload_size > kMaxAgentPayload) {
    return false;
  }
  const std::size_t start = out.size();
  out.resize(start + kAgentFrameHeaderSize + message_size);
  put_u32(out.data() + start, message_size);
  put_u32(out.data() + start + 4, payload_size);
  message.SerializeWithCachedSizesToArray(
      reinterpret_cast<std::uint8_t*>(out.data() + start + kAgentFrameHeaderSize));
  return true;
}

bool append_frame(std::string& out, const google::protobuf::MessageLite& message,
                  std::string_view payload) {
  if (!append_frame_head(out, message, payload.size())) {
    return false;
  }
  out.append(payload);
  return true;
}

void FrameParser::feed(std::string_view bytes) {
  if (bytes.empty()) {
    return;
  }
  std::memcpy(prepare(bytes.size()).data(), bytes.data(), bytes.size());
  commit(bytes.size());
}

std::span<char> FrameParser::prepare(std::size_t size) {
  if (begin_ == end_) {
    begin_ = end_ = 0;
    if (buffer_.size() > kKeptBuffer && size <= kKeptBuffer) {
      std::string().swap(buffer_);
    }
  }
  if (buffer_.size() - end_ < size) {
    if (begin_ > 0) {
      std::memmove(buffer_.data(), buffer_.data() + begin_, end_ - begin_);
      end_ -= begin_;
      begin_ = 0;
    }
    if (buffer_.size() - end_ < size) {
      buffer_.resize(std::max(end_ + size, std::min(buffer_.size() * 2, 2 * kMaxAgentMessage)));
    }
  }
  return {buffer_.data() + end_, size};
}

void FrameParser::commit(std::size_t size) { end_ += size; }

FrameParser::Status FrameParser::next(Frame& frame) {
  if (!error_.empty()) {
    return Status::kBroken;
  }
  if (buffered() < kAgentFrameHeaderSize) {
    return Status::kNeedMore;
  }
  const char* const head = buffer_.data() + begin_;
  const std::size_t message_size = get_u32(head);
  const std::size_t payload_size = get_u32(head + 4);
  // Refused on sight of the header: nothing is buffered for a frame that will never be taken.
  if (message_size > kMaxAgentMessage) {
    error_ = "message of " + std::to_string(message_size) + " bytes, over 1 MiB";
    return Status::kBroken;
  }
  if (payload_size > kMaxAgentPayload) {
    error_ = "payload of " + std::to_string(payload_size) + " bytes, over 1 MiB";
    return Status::kBroken;
  }
  const std::size_t total = kAgentFrameHeaderSize + message_size + payload_size;
  if (buffered() < total) {
    return Status::kNeedMore;
  }
  frame.message = {head + kAgentFrameHeaderSize, message_size};
  frame.payload = {head + kAgentFrameHeaderSize + message_size, payload_size};
  begin_ += total;
  return Status::kFrame;
}

}  // namespace runbus::wire
