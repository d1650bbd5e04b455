#include "services/execution/utf8_splitter.h"

#include <algorithm>

#include "proto/wire/transcoder.h"

namespace runbus::execution {
namespace {

// So much valid text in a row ends a piece of raw bytes: binary output does not fall apart into
// crumbs, and one bad byte does not turn a page of text into base64.
constexpr std::size_t kTextRun = 32;

std::size_t valid_prefix(std::string_view text) {
  bool incomplete = false;
  return wire::valid_utf8_prefix(text, incomplete);
}

// Length of the piece of raw bytes that `bytes` begins with.
std::size_t raw_run(std::string_view bytes) {
  std::size_t length = 1;
  while (length < bytes.size()) {
    bool incomplete = false;
    const std::string_view window = bytes.substr(length, kTextRun + 4);
    const std::size_t valid = wire::valid_utf8_prefix(window, incomplete);
    if (valid >= kTextRun || valid == window.size() || (valid > 0 && incomplete)) {
      return length;
    }
    if (incomplete && length + window.size() == bytes.size()) {
      return length;  // perhaps the beginning of a character
    }
    length += valid + 1;
  }
  return length;
}

}  // namespace

void Utf8Splitter::feed(int stream, std::uint64_t offset, std::string_view bytes,
                        const Emit& emit) {
  Tail& held = tail(stream);
  if (!held.bytes.empty()) {
    if (held.end == offset) {
      // Nothing came between: one piece, as if it had been written at once.
      std::string joined = std::move(held.bytes);
      held.bytes.clear();
      joined.append(bytes);
      split(stream, held.offset, joined, emit);
      return;
    }
    complete(stream, offset, bytes, emit);
  }
  split(stream, offset, bytes, emit);
}

void Utf8Splitter::complete(int stream, std::uint64_t& offset, std::string_view& bytes,
                            const Emit& emit) {
  Tail& held = tail(stream);
  while (!bytes.empty()) {
    held.bytes += bytes.front();
    bool incomplete = false;
    const std::size_t valid = wire::valid_utf8_prefix(held.bytes, incomplete);
    if (valid == 0 && !incomplete) {
      held.bytes.pop_back();
      break;
    }
    bytes.remove_prefix(1);
    ++offset;
    if (valid > 0) {
      break;
    }
  }
  bool incomplete = false;
  const bool whole = wire::valid_utf8_prefix(held.bytes, incomplete) > 0;
  if (!whole && bytes.empty()) {
    held.end = offset;
    return;
  }
  const std::string character = std::move(held.bytes);
  held.bytes.clear();
  emit(Piece{stream, held.offset, character, whole});
}

void Utf8Splitter::split(int stream, std::uint64_t offset, std::string_view bytes,
                         const Emit& emit) {
  while (!bytes.empty()) {
    bool incomplete = false;
    std::size_t length = wire::valid_utf8_prefix(bytes.substr(0, max_piece_), incomplete);
    const bool text = length > 0;
    if (!text) {
      if (incomplete && bytes.size() < 4) {
        tail(stream) = Tail{offset, offset + bytes.size(), std::string(bytes)};
        return;
      }
      length = std::min(raw_run(bytes), max_piece_);
    }
    emit(Piece{stream, offset, bytes.substr(0, length), text});
    bytes.remove_prefix(length);
    offset += length;
  }
}

void Utf8Splitter::flush(const Emit& emit) {
  for (int stream = 1; stream <= 2; ++stream) {
    Tail& held = tail(stream);
    if (!held.bytes.empty()) {
      const std::string bytes = std::move(held.bytes);
      held.bytes.clear();
      emit(Piece{stream, held.offset, bytes, false});
    }
  }
}

std::uint64_t Utf8Splitter::held_from() const {
  std::uint64_t lowest = UINT64_MAX;
  for (const Tail& held : tails_) {
    if (!held.bytes.empty()) {
      lowest = std::min(lowest, held.offset);
    }
  }
  return lowest;
}

std::string to_utf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  while (!bytes.empty()) {
    const std::size_t valid = valid_prefix(bytes);
    text.append(bytes.substr(0, valid));
    bytes.remove_prefix(valid);
    if (!bytes.empty()) {
      text.append("\xEF\xBF\xBD");
      bytes.remove_prefix(1);
    }
  }
  return text;
}

}  // namespace runbus::execution
