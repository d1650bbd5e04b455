#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace runbus::execution {

// Cuts a program's output into pieces that are either whole UTF-8 characters or bytes that are
// none. A character that a program writes in two parts is held back, per stream, until the rest
// comes; so no piece ends inside one.
class Utf8Splitter {
 public:
  struct Piece {
    int stream = 0;            // 1 stdout, 2 stderr
    std::uint64_t offset = 0;  // of its first byte, in the one sequence of both streams
    std::string_view bytes;
    bool text = false;
  };
  using Emit = std::function<void(const Piece&)>;
  static constexpr std::size_t kMaxPiece = 64U << 10U;

  // `max_piece`: bytes of a piece at most; between 16 and kMaxPiece.
  explicit Utf8Splitter(std::size_t max_piece = kMaxPiece) : max_piece_(max_piece) {}

  void feed(int stream, std::uint64_t offset, std::string_view bytes, const Emit& emit);
  // The stream has ended or has a gap: what is held back goes out as bytes.
  void flush(const Emit& emit);
  // The lowest offset that is held back; UINT64_MAX without.
  std::uint64_t held_from() const;

 private:
  struct Tail {
    std::uint64_t offset = 0;
    std::uint64_t end =
        0;              // where the stream's next byte would be if the other had not come between
    std::string bytes;  // the beginning of one character
  };

  // Completes the held-back character from the front of `bytes`; what is left has moved on to
  // `offset`.
  void complete(int stream, std::uint64_t& offset, std::string_view& bytes, const Emit& emit);
  void split(int stream, std::uint64_t offset, std::string_view bytes, const Emit& emit);

  Tail& tail(int stream) { return tails_[stream == 2 ? 1 : 0]; }

  std::size_t max_piece_;
  std::array<Tail, 2> tails_;
};

// `bytes` with everything that is not UTF-8 replaced by U+FFFD.
std::string to_utf8(std::string_view bytes);

}  // namespace runbus::execution
