#include "services/execution/utf8_splitter.h"

#include <gmock/gmock.h>

#include <vector>

namespace runbus::execution {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class Utf8SplitterTest : public ::testing::Test {
 protected:
  Utf8Splitter::Emit emit() {
    return [this](const Utf8Splitter::Piece& piece) {
      pieces.push_back(std::to_string(piece.stream) + (piece.text ? "t" : "b") +
                       std::to_string(piece.offset) + ":" + std::string(piece.bytes));
    };
  }
  void feed(int stream, std::uint64_t offset, std::string_view bytes) {
    splitter.feed(stream, offset, bytes, emit());
  }
  Utf8Splitter splitter;
  std::vector<std::string> pieces;
};

TEST_F(Utf8SplitterTest, PassesTextOn) {
  feed(1, 7, "gr\u00fc\u00df");
  EXPECT_THAT(pieces, ElementsAre("1t7:gr\u00fc\u00df"));
  EXPECT_EQ(splitter.held_from(), UINT64_MAX);
}

TEST_F(Utf8SplitterTest, HoldsACharacterBackUntilItIsWhole) {
  feed(1, 0, "a\xE2");
  EXPECT_EQ(splitter.held_from(), 1U);
  feed(1, 2, "\x82");
  EXPECT_THAT(pieces, ElementsAre("1t0:a"));
  feed(1, 3, "\xAC!");
  EXPECT_THAT(pieces, ElementsAre("1t0:a", "1t1:\u20ac!"));
  EXPECT_EQ(splitter.held_from(), UINT64_MAX);
}

TEST_F(Utf8SplitterTest, HoldsBackPerStream) {
  feed(1, 0, "\xC3");
  feed(2, 1, "error");
  feed(1, 6, "\xA9 end");
  EXPECT_THAT(pieces, ElementsAre("2t1:error", "1t0:\u00e9", "1t7: end"));
}

TEST_F(Utf8SplitterTest, GivesBytesThatAreNoCharactersAsBytes) {
  feed(1, 0, "text\xFF\xFEmore text that is long enough to count as text");
  EXPECT_THAT(pieces, ElementsAre("1t0:text", "1b4:\xFF\xFE",
                                  "1t6:more text that is long enough to count as text"));
}

TEST_F(Utf8SplitterTest, DoesNotTearBinaryOutputIntoCrumbs) {
  std::string binary;
  for (int index = 0; index < 1000; ++index) {
    binary += "ab\xFF\x80";
  }
  feed(1, 0, binary);
  EXPECT_LE(pieces.size(), 3U);
}

TEST_F(Utf8SplitterTest, GivesTheRestAsBytesAtTheEnd) {
  feed(1, 0, "\xE2\x82");
  feed(2, 2, "\xF0");
  EXPECT_THAT(pieces, IsEmpty());
  splitter.flush(emit());
  EXPECT_THAT(pieces, ElementsAre("1b0:\xE2\x82", "2b2:\xF0"));
}

TEST_F(Utf8SplitterTest, AHeldBackByteThatWasNoCharacterComesOutFirst) {
  feed(1, 0, "\xC3");
  feed(2, 1, "x");
  feed(1, 2, "plain");
  EXPECT_THAT(pieces, ElementsAre("2t1:x", "1b0:\xC3", "1t2:plain"));
}

TEST_F(Utf8SplitterTest, CutsLongTextBetweenCharacters) {
  std::string text;
  while (text.size() < 3 * Utf8Splitter::kMaxPiece) {
    text += "\u20ac";
  }
  std::string joined;
  std::uint64_t end = 0;
  splitter.feed(1, 0, text, [&](const Utf8Splitter::Piece& piece) {
    EXPECT_TRUE(piece.text);
    EXPECT_LE(piece.bytes.size(), Utf8Splitter::kMaxPiece);
    EXPECT_EQ(piece.bytes.size() % 3, 0U);
    EXPECT_EQ(piece.offset, end);
    end += piece.bytes.size();
    joined += piece.bytes;
  });
  EXPECT_EQ(joined, text);
}

// Whatever the cuts, nothing is lost, doubled or out of order, and text pieces are valid on their
// own.
TEST_F(Utf8SplitterTest, LosesNothingHoweverTheBytesAreCut) {
  const std::string bytes = "a\u00e9\u20ac\U0001F600\xFF\xC0\x80z\xED\xA0\x80\xF0\x9F\x98";
  for (std::size_t step = 1; step < bytes.size(); ++step) {
    Utf8Splitter fresh;
    std::string joined;
    const auto collect = [&](const Utf8Splitter::Piece& piece) {
      EXPECT_EQ(piece.offset, joined.size());
      joined += piece.bytes;
      if (piece.text) {
        EXPECT_EQ(to_utf8(piece.bytes), piece.bytes);
      }
    };
    for (std::size_t at = 0; at < bytes.size(); at += step) {
      fresh.feed(1, at, std::string_view(bytes).substr(at, step), collect);
    }
    fresh.flush(collect);
    EXPECT_EQ(joined, bytes) << "cut every " << step;
  }
}

TEST(ToUtf8, ReplacesWhatIsNoCharacter) {
  EXPECT_EQ(to_utf8("a\xFFz"), "a\uFFFDz");
  EXPECT_EQ(to_utf8("\u20ac"), "\u20ac");
  EXPECT_EQ(to_utf8("cut \xE2\x82"), "cut \uFFFD\uFFFD");
}

}  // namespace
}  // namespace runbus::execution
