#include "proto/wire/text.h"

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

#include "proto/wire/transcoder.h"

namespace runbus::wire {
namespace {

constexpr std::uint64_t kOnes = 0x0101010101010101U;
constexpr std::uint64_t kHighBits = 0x8080808080808080U;

std::uint64_t load(const char* at) {
  std::uint64_t word = 0;
  std::memcpy(&word, at, sizeof word);
  return word;
}

// Non-zero when one of the eight bytes is below 0x20, a quote, a backslash or not ASCII. A
// subtraction borrows out of a byte only where that byte is a hit itself, so the lowest marked byte
// is always a true one.
std::uint64_t specials(std::uint64_t word) {
  const std::uint64_t quote = word ^ (kOnes * '"');
  const std::uint64_t backslash = word ^ (kOnes * '\\');
  return ((word - kOnes * 0x20U) | (quote - kOnes) | (backslash - kOnes) | word) & kHighBits;
}

std::uint64_t non_ascii(std::uint64_t word) { return word & kHighBits; }

bool is_special(unsigned char c) { return c < 0x20 || c == '"' || c == '\\' || c >= 0x80; }
bool is_non_ascii(unsigned char c) { return c >= 0x80; }

// The first byte in [at, end) that `Byte` holds for; `Word` says the same of eight bytes at once.
template <std::uint64_t (*Word)(std::uint64_t), bool (*Byte)(unsigned char)>
const char* find_first(const char* at, const char* end) {
  while (end - at >= 32) {
    if ((Word(load(at)) | Word(load(at + 8)) | Word(load(at + 16)) | Word(load(at + 24))) != 0) {
      break;
    }
    at += 32;
  }
  while (end - at >= 8) {
    const std::uint64_t hits = Word(load(at));
    if (hits != 0) {
      if constexpr (std::endian::native == std::endian::little) {
        return at + (std::countr_zero(hits) >> 3);
      }
      break;
    }
    at += 8;
  }
  while (at != end && !Byte(static_cast<unsigned char>(*at))) {
    ++at;
  }
  return at;
}

struct Character {
  std::size_t length;  // of the character, or of the bytes that one U+FFFD stands for
  bool valid;
  bool incomplete;  // the text ended inside it
};

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xc0U) == 0x80U; }

// Length of the character at `at` when it is one of the many that need no second look, else 0.
std::size_t common_length(const char* at, const char* end) {
  const auto lead = static_cast<unsigned char>(*at);
  if (end - at >= 3) {
    if (lead >= 0xc2 && lead <= 0xdf) {
      return is_continuation(at[1]) ? 2 : 0;
    }
    if (lead >= 0xe1 && lead <= 0xec) {
      return is_continuation(at[1]) && is_continuation(at[2]) ? 3 : 0;
    }
  }
  return 0;
}

// The non-ASCII character at `at` (Unicode 15, table 3-7; bad bytes are grouped as its "maximal
// subparts").
Character decode(const char* at, const char* end) {
  if (const std::size_t common = common_length(at, end); common != 0) {
    return {common, true, false};
  }
  const auto byte = [at](std::size_t i) { return static_cast<unsigned char>(at[i]); };
  const unsigned char lead = byte(0);
  std::size_t length = 0;
  unsigned char low = 0x80;
  unsigned char high = 0xbf;
  if (lead >= 0xc2 && lead <= 0xdf) {
    length = 2;
  } else if (lead >= 0xe0 && lead <= 0xef) {
    length = 3;
    low = lead == 0xe0 ? 0xa0 : low;    // overlong
    high = lead == 0xed ? 0x9f : high;  // surrogates
  } else if (lead >= 0xf0 && lead <= 0xf4) {
    length = 4;
    low = lead == 0xf0 ? 0x90 : low;
    high = lead == 0xf4 ? 0x8f : high;  // past U+10FFFF
  } else {
    return {1, false, false};
  }
  const auto available = static_cast<std::size_t>(end - at);
  for (std::size_t i = 1; i < length; ++i) {
    if (i == available) {
      return {i, false, true};
    }
    if (byte(i) < low || byte(i) > high) {
      return {i, false, false};
    }
    low = 0x80;
    high = 0xbf;
  }
  return {length, true, false};
}

struct Escape {
  std::array<char, 6> text;
  std::uint8_t length;
};

constexpr std::array<Escape, 128> kEscapes = [] {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::array<Escape, 128> table{};
  for (std::size_t c = 0; c < 0x20; ++c) {
    table[c] = {{'\\', 'u', '0', '0', kDigits[c >> 4U], kDigits[c & 15U]}, 6};
  }
  table['"'] = {{'\\', '"'}, 2};
  table['\\'] = {{'\\', '\\'}, 2};
  table['\n'] = {{'\\', 'n'}, 2};
  table['\r'] = {{'\\', 'r'}, 2};
  table['\t'] = {{'\\', 't'}, 2};
  table['\b'] = {{'\\', 'b'}, 2};
  table['\f'] = {{'\\', 'f'}, 2};
  return table;
}();

}  // namespace

void append_json_string(std::string_view text, std::string& out) {
  out.reserve(out.size() + text.size() + 2);
  out.push_back('"');
  const char* at = text.data();
  const char* const end = at + text.size();
  while (true) {
    const char* run = find_first<specials, is_special>(at, end);
    out.append(at, run);
    if (run == end) {
      break;
    }
    at = run;
    if (!is_non_ascii(static_cast<unsigned char>(*at))) {
      const Escape& escape = kEscapes[static_cast<unsigned char>(*at++)];
      out.append(escape.text.data(), escape.length);
      continue;
    }
    Character character{0, true, false};
    while (run != end && is_non_ascii(static_cast<unsigned char>(*run))) {
      character = decode(run, end);
      if (!character.valid) {
        break;
      }
      run += character.length;
    }
    out.append(at, run);
    if (!character.valid) {
      out.append("\xef\xbf\xbd");
      run += character.length;
    }
    at = run;
  }
  out.push_back('"');
}

std::size_t valid_utf8_prefix(std::string_view text, bool& incomplete) {
  incomplete = false;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (true) {
    at = find_first<non_ascii, is_non_ascii>(at, end);
    Character character{0, true, false};
    for (; at != end && is_non_ascii(static_cast<unsigned char>(*at)); at += character.length) {
      character = decode(at, end);
      if (!character.valid) {
        incomplete = character.incomplete;
        return static_cast<std::size_t>(at - text.data());
      }
    }
    if (at == end) {
      break;
    }
  }
  return static_cast<std::size_t>(at - text.data());
}

bool is_utf8(std::string_view text) {
  bool incomplete = false;
  return valid_utf8_prefix(text, incomplete) == text.size();
}

std::string clip(std::string_view text, std::size_t limit) {
  if (text.size() <= limit) {
    return std::string(text);
  }
  // Back to the start of the character that the limit would cut.
  std::size_t length = limit;
  while (length > 0 && (static_cast<unsigned char>(text[length]) & 0xc0U) == 0x80U) {
    --length;
  }
  return std::string(text.substr(0, length)).append("...");
}

}  // namespace runbus::wire
