#include "services/execution/output_sink.h"

#include <algorithm>
#include <array>
#include <boost/asio/post.hpp>
#include <optional>
#include <utility>

#include "proto/wire/transcoder.h"
#include "runbus/v1/execution.pb.h"

namespace runbus::execution {
namespace {

constexpr std::uint64_t kWindow = 512U << 10U;
constexpr std::uint64_t kCollectWindow = 1U << 20U;
// Less than this waits for the end of the loop's turn, so that a program's many small writes become
// one item.
constexpr std::size_t kSmall = 16U << 10U;

// An item has to fit into the caller's window several times over.
std::size_t piece_size(std::uint64_t window) {
  return std::clamp<std::uint64_t>(window / 4, 512, Utf8Splitter::kMaxPiece);
}

class StreamSink final : public OutputSink, public std::enable_shared_from_this<StreamSink> {
 public:
  StreamSink(worker::CallPtr call, boost::asio::any_io_executor executor, SinkIds ids, bool quiet)
      : call_(std::move(call)),
        executor_(std::move(executor)),
        ids_(std::move(ids)),
        quiet_(quiet),
        splitter_(piece_size(call_->credit())) {}

  void watch_credit() {
    call_->on_credit([weak = weak_from_this()] {
      if (const auto self = weak.lock()) {
        self->drain();
      }
    });
  }

  void started(const std::string& language) override {
    language_ = language;
    if (quiet_ || call_->ended()) {
      return;
    }
    v1::CodeStream item;
    item.mutable_started()->set_execution_id(ids_.execution_id);
    item.mutable_started()->set_session_id(ids_.session_id);
    item.mutable_started()->set_language(language);
    call_->send(item, 0);
  }

  void output(int stream, std::uint64_t offset, std::string_view bytes) override {
    buffered_ += bytes.size();
    Segment* last = segments_.empty() ? nullptr : &segments_.back();
    if (last != nullptr && last->stream == stream && last->end() == offset &&
        last->bytes.size() + bytes.size() <= Utf8Splitter::kMaxPiece) {
      last->bytes.append(bytes);
    } else {
      segments_.push_back(Segment{stream, offset, std::string(bytes), 0});
    }
    drain_soon();
  }

  void gap(std::uint64_t from, std::uint64_t to) override {
    segments_.push_back(Segment{0, from, {}, to});
    drain_soon();
  }

  void finish(const Outcome& outcome) override {
    outcome_ = outcome;
    conclude();
  }

  void fail(Error error) override {
    failure_ = std::move(error);
    conclude();
  }

  std::uint64_t room() const override {
    // Without credit the reader is slow: what is buffered is enough for its next grant.
    return call_->credit() == 0 ? 0 : kWindow - std::min(kWindow, buffered_);
  }

  void on_room(std::function<void()> callback) override { on_room_ = std::move(callback); }

 private:
  struct Segment {
    int stream = 0;  // 0: a gap
    std::uint64_t offset = 0;
    std::string bytes;
    std::uint64_t gap_end = 0;
    std::uint64_t end() const { return offset + bytes.size(); }
  };

  void conclude() {
    drain();
    if (!call_->ended()) {
      // The rest waits for credit; until then the call alone keeps this sink.
      const auto self = shared_from_this();
      call_->on_credit([self] { self->drain(); });
      call_->on_cancel([self](Error reason) { self->call_->fail(std::move(reason)); });
    }
  }

  void drain_soon() {
    if (buffered_ >= kSmall) {
      drain();
    } else if (!posted_) {
      posted_ = true;
      boost::asio::post(executor_, [self = shared_from_this()] {
        self->posted_ = false;
        self->drain();
      });
    }
  }

  void drain() {
    const bool had = !segments_.empty();
    while (!segments_.empty() && call_->credit() > 0 && !call_->ended()) {
      const Segment segment = std::move(segments_.front());
      segments_.pop_front();
      buffered_ -= segment.bytes.size();
      send(segment);
    }
    if (segments_.empty() && (outcome_ || failure_) && !call_->ended()) {
      end();
      return;
    }
    if ((had || call_->credit() > 0) && on_room_) {
      on_room_();
    }
  }

  void send(const Segment& segment) {
    const auto emit = [this](const Utf8Splitter::Piece& piece) { send_piece(piece); };
    if (segment.stream != 0) {
      splitter_.feed(segment.stream, segment.offset, segment.bytes, emit);
      return;
    }
    splitter_.flush(emit);
    v1::CodeStream item;
    item.mutable_gap()->set_execution_id(ids_.execution_id);
    item.mutable_gap()->set_from(segment.offset);
    item.mutable_gap()->set_to(segment.gap_end);
    call_->send(item, segment.gap_end);
  }

  void send_piece(const Utf8Splitter::Piece& piece) {
    if (call_->ended()) {
      return;
    }
    auto* output = item_.mutable_output();
    output->set_execution_id(ids_.execution_id);
    output->set_stream(piece.stream == 2 ? "stderr" : "stdout");
    output->set_offset(piece.offset);
    if (piece.text) {
      output->set_text(piece.bytes.data(), piece.bytes.size());
    } else {
      output->set_data(piece.bytes.data(), piece.bytes.size());
    }
    // A held-back character is not delivered: a resumed call has to begin before it.
    call_->send(item_, std::min(piece.offset + piece.bytes.size(), splitter_.held_from()));
  }

  void end() {
    splitter_.flush([this](const Utf8Splitter::Piece& piece) { send_piece(piece); });
    on_room_ = nullptr;
    if (failure_) {
      call_->fail(*failure_);
      return;
    }
    v1::CodeStream last;
    auto* result = last.mutable_result();
    result->set_execution_id(ids_.execution_id);
    result->set_session_id(ids_.session_id);
    result->set_language(language_);
    result->set_bytes(outcome_->bytes);
    result->set_truncated(outcome_->limit == "output");
    fill_result(*outcome_, *result);
    call_->finish(last);
  }

  worker::CallPtr call_;
  boost::asio::any_io_executor executor_;
  SinkIds ids_;
  bool quiet_;
  std::string language_;
  std::deque<Segment> segments_;
  std::uint64_t buffered_ = 0;
  bool posted_ = false;
  Utf8Splitter splitter_;
  v1::CodeStream item_;  // reused: its strings keep their memory
  std::optional<Outcome> outcome_;
  std::optional<Error> failure_;
  std::function<void()> on_room_;
};

class CollectSink final : public OutputSink {
 public:
  CollectSink(worker::CallPtr call, SinkIds ids, std::uint64_t max_output)
      : call_(std::move(call)), ids_(std::move(ids)), max_output_(max_output) {}

  void started(const std::string& language) override { language_ = language; }

  void output(int stream, std::uint64_t, std::string_view bytes) override {
    std::string& collected = collected_[stream == 2 ? 1 : 0];
    const std::uint64_t left = max_output_ - collected.size();
    if (bytes.size() > left) {
      cut_[stream == 2 ? 1 : 0] = true;
      bytes = bytes.substr(0, left);
    }
    collected.append(bytes);
  }

  void gap(std::uint64_t, std::uint64_t) override { gap_ = true; }

  void finish(const Outcome& outcome) override {
    v1::CodeResult result;
    result.set_execution_id(ids_.execution_id);
    result.set_session_id(ids_.session_id);
    result.set_language(language_);
    result.set_stdout(text(0));
    result.set_stderr(text(1));
    result.set_truncated(cut_[0] || cut_[1] || gap_ || outcome.limit == "output");
    fill_result(outcome, result);
    call_->finish(result);
  }

  void fail(Error error) override { call_->fail(std::move(error)); }

  std::uint64_t room() const override { return kCollectWindow; }
  void on_room(std::function<void()>) override {}  // there is always room

 private:
  // A character that the bound cut in two is left out, not replaced.
  std::string text(std::size_t index) {
    std::string& collected = collected_[index];
    if (cut_[index]) {
      for (std::size_t back = 1; back <= 3 && back <= collected.size(); ++back) {
        bool incomplete = false;
        const std::string_view tail = std::string_view(collected).substr(collected.size() - back);
        if (wire::valid_utf8_prefix(tail, incomplete) == 0 && incomplete) {
          collected.resize(collected.size() - back);
          break;
        }
      }
    }
    return to_utf8(collected);
  }

  worker::CallPtr call_;
  SinkIds ids_;
  std::uint64_t max_output_;
  std::string language_;
  std::array<std::string, 2> collected_;
  std::array<bool, 2> cut_{};
  bool gap_ = false;
};

class NullSink final : public OutputSink {
 public:
  void started(const std::string&) override {}
  void output(int, std::uint64_t, std::string_view) override {}
  void gap(std::uint64_t, std::uint64_t) override {}
  void finish(const Outcome&) override {}
  void fail(Error) override {}
  std::uint64_t room() const override { return kCollectWindow; }
  void on_room(std::function<void()>) override {}
};

}  // namespace

std::shared_ptr<OutputSink> make_stream_sink(worker::CallPtr call,
                                             boost::asio::any_io_executor executor, SinkIds ids,
                                             bool quiet_start) {
  auto sink = std::make_shared<StreamSink>(std::move(call), std::move(executor), std::move(ids),
                                           quiet_start);
  sink->watch_credit();
  return sink;
}

std::shared_ptr<OutputSink> make_collect_sink(worker::CallPtr call, SinkIds ids,
                                              std::uint64_t max_output) {
  return std::make_shared<CollectSink>(std::move(call), std::move(ids), max_output);
}

std::shared_ptr<OutputSink> make_null_sink() { return std::make_shared<NullSink>(); }

}  // namespace runbus::execution
