#include "services/session/agent_client.h"

#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "proto/support/log.h"
#include "proto/wire/agent_frame.h"
#include "services/session/unix_path.h"

namespace runbus::session {
namespace {

namespace asio = boost::asio;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kReadSize = 256U << 10U;
constexpr std::size_t kMaxOutbox = 64U << 20U;
constexpr std::size_t kMaxPending = 65'536;
constexpr std::chrono::seconds kHelloTimeout{20};
// An agent that leaves a request unanswered this long is stuck.
constexpr std::chrono::seconds kAnswerTimeout{60};

Error error_of_system(int number) {
  switch (number) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG: {
      Error error = make_error(ErrorCode::kQuota, std::strerror(number));
      error.limit = "disk";
      return error;
    }
    case EISDIR:
    case ENOTDIR:
    case EACCES:
    case EPERM:
    case ENOENT:
    case EEXIST:
    case ELOOP:
    case ENAMETOOLONG:
    case E2BIG:
      return make_error(ErrorCode::kValidation, std::strerror(number));
    case EAGAIN:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      return make_error(ErrorCode::kQuota, std::strerror(number));
    default:
      return make_error(ErrorCode::kInternal);
  }
}

Error error_of(const agent_v1::Failed& failed) {
  const std::string detail = printable(failed.detail());
  switch (failed.reason()) {
    case agent_v1::Failed::INVALID:
      return make_error(ErrorCode::kValidation, detail);
    case agent_v1::Failed::NOT_FOUND:
      return make_error(ErrorCode::kNotFound, detail);
    case agent_v1::Failed::EXISTS:
      return make_error(ErrorCode::kConflict, detail);
    case agent_v1::Failed::LIMIT:
      return make_error(ErrorCode::kQuota, detail);
    default: {
      Error error = error_of_system(failed.error_number());
      // The agent's words name places inside the sandbox alone.
      error.detail = error.detail.empty() ? detail
                     : detail.empty()     ? error.detail
                                          : detail + ": " + error.detail;
      error.internal = "agent: errno " + std::to_string(failed.error_number());
      return error;
    }
  }
}

class Client final : public AgentClient {
 public:
  explicit Client(const asio::any_io_executor& executor) : socket_(executor), timer_(executor) {}

  void start(const std::string& path, std::function<void(Result<void>)> ready) {
    auto fd = connect_unix(path);
    boost::system::error_code failure;
    if (fd) {
      socket_.assign(asio::local::stream_protocol(), fd->get(), failure);
      if (!failure) {
        fd->release();
      }
    }
    if (!fd || failure) {
      closed_ = told_ = true;
      Error error =
          fd ? make_error(ErrorCode::kConnection, {}, failure.message()) : std::move(fd.error());
      asio::post(socket_.get_executor(),
                 [ready = std::move(ready), error = std::move(error)] { ready(error); });
      return;
    }
    agent_v1::AgentRequest hello;
    hello.mutable_hello()->set_version(RUNBUS_VERSION);
    request(std::move(hello), {}, [this, ready = std::move(ready)](auto reply) {
      welcomed_ = true;
      if (!reply) {
        ready(reply.error());
      } else if (!reply->has_welcome()) {
        ready(make_error(ErrorCode::kConnection, {}, "agent did not say welcome"));
        stop(make_error(ErrorCode::kConnection));
      } else {
        ready(Result<void>());
      }
    });
    watch();
    read();
  }

  void request(agent_v1::AgentRequest request, std::string payload, Reply reply) override {
    Result<std::uint64_t> id = enqueue(request, payload, reply != nullptr);
    if (!reply) {
      return;
    }
    if (!id) {
      asio::post(socket_.get_executor(),
                 [reply = std::move(reply), error = id.error()] { reply(error); });
      return;
    }
    pending_.emplace(*id, Pending{std::move(reply), {}, Clock::now()});
  }

  void attach(const std::string& execution_id, std::uint64_t offset, std::uint64_t credit,
              std::shared_ptr<Reader> reader) override {
    agent_v1::AgentRequest request;
    auto* attach = request.mutable_attach();
    attach->set_execution_id(execution_id);
    attach->set_offset(offset);
    attach->set_credit(credit);
    const Result<std::uint64_t> id = enqueue(request, {}, true);
    if (!id) {
      asio::post(socket_.get_executor(),
                 [reader = std::move(reader), error = id.error()] { reader->on_lost(error); });
      return;
    }
    attachments_[execution_id] = Attachment{std::move(reader), *id, false, 0, credit};
    pending_.emplace(*id, Pending{nullptr, execution_id, Clock::now()});
  }

  void grant(const std::string& execution_id, std::uint64_t credit) override {
    const auto found = attachments_.find(execution_id);
    if (found == attachments_.end() || credit <= found->second.credit) {
      return;
    }
    agent_v1::AgentRequest request;
    request.mutable_credit()->set_execution_id(execution_id);
    request.mutable_credit()->set_credit(credit);
    if (enqueue(request, {}, false)) {
      found->second.credit = credit;
    }
  }

  void detach(const std::string& execution_id) override {
    if (attachments_.erase(execution_id) == 0) {
      return;
    }
    agent_v1::AgentRequest request;
    request.mutable_detach()->set_execution_id(execution_id);
    if (!enqueue(request, {}, false)) {
      // Only a full outbox or a broken connection refuses; without the detach the agent would go on
      // sending.
      stop(make_error(ErrorCode::kConnection, {}, "detach did not fit"));
    }
  }

  void flush() override { write(); }

  bool connected() const override { return !closed_ && welcomed_; }

  void on_closed(std::function<void()> callback) override {
    if (told_) {
      asio::post(socket_.get_executor(), std::move(callback));
    } else {
      on_closed_ = std::move(callback);
    }
  }

  void close() override { stop(make_error(ErrorCode::kConnection, {}, "closed by us")); }

 private:
  struct Pending {
    Reply reply;               // empty for an attach
    std::string execution_id;  // of an attach
    Clock::time_point since;
  };
  struct Attachment {
    std::shared_ptr<Reader> reader;
    std::uint64_t request_id = 0;
    bool attached = false;  // what comes before is of the attachment that this one replaced
    std::uint64_t received = 0;
    std::uint64_t credit = 0;
  };

  std::shared_ptr<Client> self() { return std::static_pointer_cast<Client>(shared_from_this()); }

  Result<std::uint64_t> enqueue(agent_v1::AgentRequest& request, const std::string& payload,
                                bool answered) {
    if (closed_) {
      return make_error(ErrorCode::kConnection, "the sandbox's agent is not connected");
    }
    if (outbox_.size() + writing_.size() > kMaxOutbox || pending_.size() > kMaxPending) {
      return make_error(ErrorCode::kBusy, "too many requests wait for the sandbox");
    }
    const std::uint64_t id = answered ? ++last_id_ : 0;
    request.set_request_id(id);
    if (!wire::append_frame(outbox_, request, payload)) {
      return make_error(ErrorCode::kValidation, "the request is too large for the sandbox's agent");
    }
    if (writing_.empty() && !flush_posted_) {
      flush_posted_ = true;  // several requests of one turn of the loop leave in one write
      asio::post(socket_.get_executor(), [self = self()] {
        self->flush_posted_ = false;
        self->write();
      });
    }
    return id;
  }

  void write() {
    if (closed_ || !writing_.empty() || outbox_.empty()) {
      return;
    }
    writing_.swap(outbox_);
    asio::async_write(socket_, asio::buffer(writing_),
                      [self = self()](const boost::system::error_code& error, std::size_t) {
                        self->writing_.clear();
                        if (error) {
                          self->stop(make_error(ErrorCode::kConnection, {}, error.message()));
                        } else {
                          self->write();
                        }
                      });
  }

  void read() {
    const std::span<char> room = parser_.prepare(kReadSize);
    socket_.async_read_some(
        asio::buffer(room.data(), room.size()),
        [self = self()](const boost::system::error_code& error, std::size_t size) {
          if (self->closed_) {
            return;
          }
          if (error) {
            self->stop(make_error(ErrorCode::kConnection, {}, error.message()));
            return;
          }
          self->parser_.commit(size);
          self->take_frames();
          if (!self->closed_) {
            self->read();
          }
        });
  }

  void take_frames() {
    wire::FrameParser::Frame frame;
    while (!closed_) {
      switch (parser_.next(frame)) {
        case wire::FrameParser::Status::kNeedMore:
          return;
        case wire::FrameParser::Status::kBroken:
          stop(make_error(ErrorCode::kConnection, {}, "agent: " + parser_.error()));
          return;
        case wire::FrameParser::Status::kFrame:
          if (!reply_.ParseFromArray(frame.message.data(),
                                     static_cast<int>(frame.message.size()))) {
            stop(make_error(ErrorCode::kConnection, {}, "agent sent no AgentReply"));
            return;
          }
          dispatch(frame.payload);
      }
    }
  }

  void dispatch(std::string_view payload) {
    switch (reply_.reply_case()) {
      case agent_v1::AgentReply::kOutput:
        on_output(reply_.output(), payload);
        return;
      case agent_v1::AgentReply::kGap: {
        const auto found = attachments_.find(reply_.gap().execution_id());
        if (found != attachments_.end() && found->second.attached &&
            reply_.gap().from() < reply_.gap().to()) {
          const auto reader = found->second.reader;
          reader->on_gap(reply_.gap().from(), reply_.gap().to());
        }
        return;
      }
      case agent_v1::AgentReply::kExited: {
        const auto found = attachments_.find(reply_.exited().execution_id());
        if (found != attachments_.end() && found->second.attached) {
          const auto reader = std::move(found->second.reader);
          attachments_.erase(found);
          reader->on_exited(reply_.exited());
        }
        return;
      }
      default:
        on_answer();
    }
  }

  void on_output(const agent_v1::Output& output, std::string_view payload) {
    const auto found = attachments_.find(output.execution_id());
    if (found == attachments_.end() || !found->second.attached || payload.empty()) {
      return;
    }
    Attachment& attachment = found->second;
    attachment.received += payload.size();
    if (attachment.received > attachment.credit || output.stream() < 1 || output.stream() > 2 ||
        output.offset() > UINT64_MAX - payload.size()) {
      stop(make_error(ErrorCode::kConnection, {}, "agent sent output it may not send"));
      return;
    }
    const auto reader = attachment.reader;
    reader->on_output(static_cast<int>(output.stream()), output.offset(), payload);
  }

  void on_answer() {
    const auto found = pending_.find(reply_.request_id());
    if (found == pending_.end()) {
      return;
    }
    Pending pending = std::move(found->second);
    const std::uint64_t id = found->first;
    pending_.erase(found);
    if (pending.reply) {
      if (reply_.has_failed()) {
        pending.reply(error_of(reply_.failed()));
      } else {
        pending.reply(reply_);
      }
      return;
    }
    const auto attachment = attachments_.find(pending.execution_id);
    if (attachment == attachments_.end() || attachment->second.request_id != id) {
      return;  // replaced or detached meanwhile
    }
    const auto reader = attachment->second.reader;
    if (reply_.has_attached()) {
      attachment->second.attached = true;
      reader->on_attached(reply_.attached());
      return;
    }
    attachments_.erase(attachment);
    reader->on_lost(reply_.has_failed()
                        ? error_of(reply_.failed())
                        : make_error(ErrorCode::kConnection, {}, "agent did not attach"));
  }

  // One timer looks at the oldest unanswered request; ids grow, so it is the first of the map.
  void watch() {
    timer_.expires_after(welcomed_ ? std::chrono::seconds(15) : kHelloTimeout);
    timer_.async_wait([weak = std::weak_ptr(self())](const boost::system::error_code& error) {
      const auto self = weak.lock();
      if (error || !self || self->closed_) {
        return;
      }
      const bool stuck = !self->pending_.empty() &&
                         Clock::now() - self->pending_.begin()->second.since > kAnswerTimeout;
      if (!self->welcomed_ || stuck) {
        self->stop(make_error(ErrorCode::kTimeout, "the sandbox's agent does not answer"));
        return;
      }
      self->watch();
    });
  }

  void stop(Error error) {
    if (closed_) {
      return;
    }
    closed_ = true;
    boost::system::error_code ignored;  // the descriptor is gone either way
    socket_.close(ignored);
    timer_.cancel();
    if (error.detail.empty()) {
      error.detail = "the connection to the sandbox broke";
    }
    asio::post(socket_.get_executor(),
               [self = self(), error = std::move(error)] { self->tell_all(error); });
  }

  void tell_all(const Error& error) {
    auto pending = std::exchange(pending_, {});
    for (auto& [id, entry] : pending) {
      if (entry.reply) {
        entry.reply(error);
      }
    }
    auto attachments = std::exchange(attachments_, {});
    for (auto& [id, attachment] : attachments) {
      attachment.reader->on_lost(error);
    }
    told_ = true;
    if (on_closed_) {
      std::exchange(on_closed_, nullptr)();
    }
  }

  asio::local::stream_protocol::socket socket_;
  asio::steady_timer timer_;
  wire::FrameParser parser_;
  agent_v1::AgentReply reply_;
  std::string outbox_;
  std::string writing_;
  bool flush_posted_ = false;
  bool welcomed_ = false;
  bool closed_ = false;
  bool told_ = false;
  std::uint64_t last_id_ = 0;
  std::map<std::uint64_t, Pending> pending_;
  std::unordered_map<std::string, Attachment> attachments_;
  std::function<void()> on_closed_;
};

}  // namespace

std::shared_ptr<AgentClient> AgentClient::connect(asio::any_io_executor executor,
                                                  std::string socket_path,
                                                  std::function<void(Result<void>)> ready) {
  auto client = std::make_shared<Client>(executor);
  client->start(socket_path, std::move(ready));
  return client;
}

}  // namespace runbus::session
