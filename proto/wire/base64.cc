#include <array>
#include <cstdint>

#include "proto/wire/transcoder.h"

namespace runbus::wire {
namespace {

constexpr std::string_view kAlphabet =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

// The six bits of a character; above them marks of which alphabet it belongs to. Both marks
// together are a foreign character or, or-ed over a text, a mixture of the alphabets: one test at
// the end finds both.
constexpr std::uint8_t kStandardOnly = 0x40;
constexpr std::uint8_t kUrlOnly = 0x80;
constexpr std::uint8_t kForeign = kStandardOnly | kUrlOnly;

constexpr std::array<std::uint8_t, 256> kDecode = [] {
  std::array<std::uint8_t, 256> table{};
  table.fill(kForeign);
  for (std::size_t i = 0; i < kAlphabet.size(); ++i) {
    table[static_cast<unsigned char>(kAlphabet[i])] = static_cast<std::uint8_t>(i);
  }
  table['+'] = 62 | kStandardOnly;
  table['/'] = 63 | kStandardOnly;
  table['-'] = 62 | kUrlOnly;
  table['_'] = 63 | kUrlOnly;
  return table;
}();

Error not_base64() { return make_error(ErrorCode::kInvalidParams, "not base64"); }

}  // namespace

void append_base64(std::string_view bytes, std::string& out) {
  const std::size_t start = out.size();
  out.resize(start + (bytes.size() + 2) / 3 * 4, '=');
  char* to = out.data() + start;
  const auto byte = [bytes](std::size_t i) -> std::uint32_t {
    return static_cast<unsigned char>(bytes[i]);
  };
  std::size_t i = 0;
  for (; i + 3 <= bytes.size(); i += 3) {
    const std::uint32_t group = byte(i) << 16U | byte(i + 1) << 8U | byte(i + 2);
    *to++ = kAlphabet[group >> 18U];
    *to++ = kAlphabet[group >> 12U & 63U];
    *to++ = kAlphabet[group >> 6U & 63U];
    *to++ = kAlphabet[group & 63U];
  }
  const std::size_t rest = bytes.size() - i;
  if (rest == 0) {
    return;
  }
  const std::uint32_t group = byte(i) << 16U | (rest == 2 ? byte(i + 1) << 8U : 0U);
  *to++ = kAlphabet[group >> 18U];
  *to++ = kAlphabet[group >> 12U & 63U];
  if (rest == 2) {
    *to = kAlphabet[group >> 6U & 63U];
  }
}

Result<std::string> decode_base64(std::string_view text) {
  if (text.size() % 4 == 0) {
    for (int padding = 0; padding < 2 && text.ends_with('='); ++padding) {
      text.remove_suffix(1);
    }
  }
  const std::size_t rest = text.size() % 4;
  if (rest == 1) {
    return not_base64();
  }
  std::string bytes(text.size() / 4 * 3 + (rest == 0 ? 0 : rest - 1), '\0');
  std::uint32_t seen = 0;
  const auto six = [&](std::size_t i) -> std::uint32_t {
    const std::uint8_t value = kDecode[static_cast<unsigned char>(text[i])];
    seen |= value;
    return value & 63U;
  };
  char* to = bytes.data();
  std::size_t i = 0;
  for (; i + 4 <= text.size(); i += 4) {
    const std::uint32_t group = six(i) << 18U | six(i + 1) << 12U | six(i + 2) << 6U | six(i + 3);
    *to++ = static_cast<char>(group >> 16U);
    *to++ = static_cast<char>(group >> 8U);
    *to++ = static_cast<char>(group);
  }
  if (rest != 0) {
    const std::uint32_t group =
        six(i) << 18U | six(i + 1) << 12U | (rest == 3 ? six(i + 2) << 6U : 0U);
    *to++ = static_cast<char>(group >> 16U);
    if (rest == 3) {
      *to = static_cast<char>(group >> 8U);
    }
    // Bits that belong to no byte must be zero, or two texts would mean the same bytes.
    if ((group & (rest == 3 ? 0xffU : 0xffffU)) != 0) {
      return not_base64();
    }
  }
  if ((seen & kForeign) == kForeign) {
    return not_base64();
  }
  return bytes;
}

}  // namespace runbus::wire
