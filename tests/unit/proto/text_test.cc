#include "proto/wire/text.h"

#include <gtest/gtest.h>

#include <string>

#include "proto/wire/transcoder.h"

namespace runbus::wire {
namespace {

std::string json_string(std::string_view text) {
  std::string out;
  append_json_string(text, out);
  return out;
}

std::string base64(std::string_view bytes) {
  std::string out;
  append_base64(bytes, out);
  return out;
}

TEST(JsonString, EscapesWhatJsonRequires) {
  EXPECT_EQ(json_string(""), "\"\"");
  EXPECT_EQ(json_string("plain"), "\"plain\"");
  EXPECT_EQ(json_string("a\"b\\c/d"), "\"a\\\"b\\\\c/d\"");
  EXPECT_EQ(json_string("\b\f\n\r\t"), "\"\\b\\f\\n\\r\\t\"");
  EXPECT_EQ(json_string(std::string("\0\x1f\x7f", 3)), "\"\\u0000\\u001f\x7f\"");
}

TEST(JsonString, AppendsToWhatIsThere) {
  std::string out = "x:";
  append_json_string("y", out);
  EXPECT_EQ(out, "x:\"y\"");
}

// The fast path looks at 32 and 8 bytes at a time: every byte value at every place of a block.
TEST(JsonString, FindsASpecialByteAtAnyPlace) {
  for (std::size_t length : {1U, 7U, 8U, 9U, 31U, 32U, 33U, 47U, 80U}) {
    for (std::size_t at = 0; at < length; ++at) {
      for (int value = 0; value < 256; ++value) {
        const char c = static_cast<char>(value);
        std::string text(length, 'a');
        text[at] = c;
        std::string middle(1, c);
        if (value >= 0x80) {
          middle = "\xef\xbf\xbd";
        } else if (value < 0x20 || c == '"' || c == '\\') {
          middle = json_string(middle);
          middle = middle.substr(1, middle.size() - 2);
          ASSERT_GE(middle.size(), 2U);
        }
        ASSERT_EQ(json_string(text),
                  "\"" + std::string(at, 'a') + middle + std::string(length - at - 1, 'a') + "\"");
      }
    }
  }
}

TEST(JsonString, KeepsUtf8) {
  const std::string text = "\u00e4 \u20ac \U0001f600 \U0010ffff \ud7ff\ue000";
  EXPECT_EQ(json_string(text), "\"" + text + "\"");
}

TEST(JsonString, ReplacesEachMaximalSubpartOfBadUtf8) {
  const std::string bad = "\xef\xbf\xbd";
  EXPECT_EQ(json_string("a\xff"), "\"a" + bad + "\"");
  EXPECT_EQ(json_string("\x80\x80"), "\"" + bad + bad + "\"");
  EXPECT_EQ(json_string("\xe2\x82"), "\"" + bad + "\"");                  // cut short
  EXPECT_EQ(json_string("\xe2\x82z"), "\"" + bad + "z\"");                // interrupted
  EXPECT_EQ(json_string("\xc0\xaf"), "\"" + bad + bad + "\"");            // overlong
  EXPECT_EQ(json_string("\xed\xa0\x80"), "\"" + bad + bad + bad + "\"");  // a surrogate
  EXPECT_EQ(json_string("\xf4\x90\x80\x80"), "\"" + bad + bad + bad + bad + "\"");
  EXPECT_EQ(json_string("\xf0\x9f\x98\xc3\xa4"), "\"" + bad + "\u00e4\"");
}

TEST(Utf8Prefix, IsTheWholeOfGoodText) {
  bool incomplete = true;
  EXPECT_EQ(valid_utf8_prefix("", incomplete), 0U);
  EXPECT_FALSE(incomplete);
  const std::string text = "abcdefghijklmnopqrstuvwxyz0123456789\u20ac\U0001f600";
  EXPECT_EQ(valid_utf8_prefix(text, incomplete), text.size());
  EXPECT_FALSE(incomplete);
}

TEST(Utf8Prefix, TellsACutCharacterFromABadOne) {
  bool incomplete = false;
  for (const std::string_view cut : {"ab\xc3", "ab\xe2", "ab\xe2\x82", "ab\xf0\x9f\x98"}) {
    EXPECT_EQ(valid_utf8_prefix(cut, incomplete), 2U);
    EXPECT_TRUE(incomplete);
  }
  for (const std::string_view bad : {"ab\xff", "ab\x80", "ab\xe2z", "ab\xe0\x80", "ab\xed\xa0",
                                     "ab\xf4\x90", "ab\xf5\x80\x80", "ab\xc1"}) {
    EXPECT_EQ(valid_utf8_prefix(bad, incomplete), 2U);
    EXPECT_FALSE(incomplete);
  }
}

TEST(Clip, CutsBetweenCharacters) {
  EXPECT_EQ(clip("short", 5), "short");
  EXPECT_EQ(clip("longer", 5), "longe...");
  EXPECT_EQ(clip("ab\u20acd", 4), "ab...");
  EXPECT_EQ(clip("ab\u20acd", 5), "ab\u20ac...");
  EXPECT_EQ(clip("x", 0), "...");
}

// RFC 4648 §10.
TEST(Base64, EncodesTheVectorsOfTheRfc) {
  EXPECT_EQ(base64(""), "");
  EXPECT_EQ(base64("f"), "Zg==");
  EXPECT_EQ(base64("fo"), "Zm8=");
  EXPECT_EQ(base64("foo"), "Zm9v");
  EXPECT_EQ(base64("foob"), "Zm9vYg==");
  EXPECT_EQ(base64("fooba"), "Zm9vYmE=");
  EXPECT_EQ(base64("foobar"), "Zm9vYmFy");
}

TEST(Base64, ComesBackForAllLengthsAndBytes) {
  std::string bytes;
  for (int i = 0; i < 600; ++i) {
    const Result<std::string> back = decode_base64(base64(bytes));
    ASSERT_TRUE(back);
    ASSERT_EQ(*back, bytes);
    bytes.push_back(static_cast<char>(i * 7));
  }
}

TEST(Base64, TakesEitherAlphabetAndNoPadding) {
  EXPECT_EQ(*decode_base64("+/+/"), "\xfb\xff\xbf");
  EXPECT_EQ(*decode_base64("-_-_"), "\xfb\xff\xbf");
  EXPECT_EQ(*decode_base64("Zg"), "f");
  EXPECT_EQ(*decode_base64("Zm8"), "fo");
}

TEST(Base64, RefusesWhatIsNotBase64) {
  for (const std::string_view text :
       {"Z", "Zm9vY", "Zg=", "Zg===", "====", "=", "Zm9v====", "Z g=", "Zm9\n",
        "Zh==", "Zm9=", "+_+_", "Zm=v", "\xff\xff\xff\xff"}) {
    const Result<std::string> result = decode_base64(text);
    ASSERT_FALSE(result) << text;
    EXPECT_EQ(result.error().code, ErrorCode::kInvalidParams);
  }
}

}  // namespace
}  // namespace runbus::wire
