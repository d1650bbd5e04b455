#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace google::protobuf {
class MessageLite;
}

// Frames between a worker and an agent, as proto/runbus/v1/agent.proto lays them out:
//   u32 message_size (big endian) · u32 payload_size (big endian) · message · payload
// Needs protobuf-lite alone, so that the static agent and the worker's client share it.
namespace runbus::wire {

inline constexpr std::size_t kAgentFrameHeaderSize = 8;
inline constexpr std::size_t kMaxAgentMessage = std::size_t{1} << 20;
inline constexpr std::size_t kMaxAgentPayload = std::size_t{1} << 20;

// Appends one frame to `out`. False, and `out` unchanged, when the message or the payload is over
// its limit.
[[nodiscard]] bool append_frame(std::string& out, const google::protobuf::MessageLite& message,
                                std::string_view payload = {});

// The same without the payload, which the caller sends right behind it (to spare a copy of large
// payloads).
[[nodiscard]] bool append_frame_head(std::string& out, const google::protobuf::MessageLite& message,
                                     std::size_t payload_size);

// Cuts a byte stream into frames. Incremental: bytes may come in any pieces. Keeps at most one
// frame (2 MiB and its header) plus what was fed last. After kBroken it stays broken: disconnect
// the peer.
class FrameParser {
 public:
  // Views into the parser: valid until the next feed, prepare or next.
  struct Frame {
    std::string_view message;
    std::string_view payload;
  };
  enum class Status {
    kFrame,     // `frame` is set
    kNeedMore,  // no whole frame yet
    kBroken,    // the peer broke a limit; error() says which
  };

  void feed(std::string_view bytes);

  // The same without a copy: read(2) up to size() bytes into the span, then say how many came.
  std::span<char> prepare(std::size_t size);
  void commit(std::size_t size);

  Status next(Frame& frame);

  // Bytes taken in and not yet given out.
  std::size_t buffered() const { return end_ - begin_; }
  // What was wrong, for a log; empty unless broken.
  const std::string& error() const { return error_; }

 private:
  std::string buffer_;  // its size is the room there is; [begin_, end_) is filled
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::string error_;
};

}  // namespace runbus::wire
