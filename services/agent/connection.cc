#include "services/agent/connection.h"

#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "services/agent/attachment.h"

namespace runbus::agent {
namespace {

constexpr std::size_t kReadSize = 64 * 1024;
// Frames of output in one turn of one connection.
constexpr int kPumpFrames = 16;
// From this size on a payload is sent from where it lies, not copied first.
constexpr std::size_t kDirectPayload = 4096;

bool would_block(int error) { return error == EAGAIN; }

}  // namespace

Connection::Connection(EventLoop& loop, Owner& owner, std::uint64_t id, UniqueFd input,
                       UniqueFd output)
    : loop_(loop), owner_(owner), id_(id), input_(std::move(input)), output_(std::move(output)) {}

Connection::~Connection() = default;

bool Connection::start() {
  return input_watch_.open(loop_, input_.get(), EPOLLIN, [this](std::uint32_t events) {
    on_events(events);
  }) && (!output_ || output_watch_.open(loop_, output_.get(), 0, [this](std::uint32_t) {
           on_events(EPOLLOUT);
         }));
}

void Connection::on_events(std::uint32_t events) {
  if ((events & (EPOLLOUT | EPOLLERR)) != 0) {
    flush();
    pump();
    process_frames();
  }
  if ((events & (EPOLLIN | EPOLLHUP)) != 0 && !congested()) {
    read();
  }
  update_events();
}

void Connection::read() {
  const std::span<char> room = parser_.prepare(kReadSize);
  const ssize_t size = ::read(input_.get(), room.data(), room.size());
  if (size > 0) {
    parser_.commit(static_cast<std::size_t>(size));
    process_frames();
  } else if (size == 0 || (!would_block(errno) && errno != EINTR)) {
    close();
  }
}

void Connection::process_frames() {
  wire::FrameParser::Frame frame;
  // A peer that asks without reading the answers is not listened to.
  while (!congested()) {
    const auto status = parser_.next(frame);
    if (status == wire::FrameParser::Status::kNeedMore) {
      return;
    }
    v1::AgentRequest request;
    if (status == wire::FrameParser::Status::kBroken ||
        !request.ParseFromArray(frame.message.data(), static_cast<int>(frame.message.size()))) {
      close();
      return;
    }
    owner_.on_request(*this, request, frame.payload);
  }
}

void Connection::send(const v1::AgentReply& reply, std::string_view payload) {
  if (closed_) {
    return;
  }
  const bool idle = out_.empty();
  if (!wire::append_frame_head(out_, reply, payload.size())) {
    // Our own messages are bounded far below the limit.
    close();
    return;
  }
  if (!idle) {
    out_.append(payload);
    return;
  }
  if (payload.size() >= kDirectPayload) {
    std::array<iovec, 2> parts{};
    parts[0] = {out_.data(), out_.size()};
    parts[1] = {const_cast<char*>(payload.data()), payload.size()};
    const ssize_t size = ::writev(output_fd(), parts.data(), static_cast<int>(parts.size()));
    std::size_t sent = size > 0 ? static_cast<std::size_t>(size) : 0;
    if (sent == out_.size() + payload.size()) {
      out_.clear();
      return;
    }
    if (sent >= out_.size()) {
      payload.remove_prefix(sent - out_.size());
      out_.assign(payload);
    } else {
      out_.erase(0, sent);
      out_.append(payload);
    }
  } else {
    out_.append(payload);
  }
  flush();
  update_events();
}

void Connection::flush() {
  while (!closed_ && out_sent_ < out_.size()) {
    const ssize_t size = ::write(output_fd(), out_.data() + out_sent_, out_.size() - out_sent_);
    if (size >= 0) {
      out_sent_ += static_cast<std::size_t>(size);
    } else if (would_block(errno)) {
      break;
    } else if (errno != EINTR) {
      close();
      return;
    }
  }
  if (out_sent_ == out_.size()) {
    out_.clear();
    out_sent_ = 0;
  } else if (out_sent_ > kQueueLimit / 2) {
    out_.erase(0, out_sent_);
    out_sent_ = 0;
  }
}

void Connection::answer(std::uint64_t request_id, v1::AgentReply reply) {
  if (request_id != 0) {
    reply.set_request_id(request_id);
    send(reply);
  }
}

void Connection::answer_done(std::uint64_t request_id) {
  v1::AgentReply reply;
  reply.mutable_done();
  answer(request_id, std::move(reply));
}

void Connection::answer_failed(std::uint64_t request_id, const Failure& failure) {
  v1::AgentReply reply;
  reply.mutable_failed()->set_reason(failure.reason);
  reply.mutable_failed()->set_detail(failure.detail);
  reply.mutable_failed()->set_error_number(failure.error_number);
  answer(request_id, std::move(reply));
}

void Connection::attach(const std::string& execution_id, std::unique_ptr<Attachment> attachment) {
  attachments_[execution_id] = std::move(attachment);
}

Attachment* Connection::attachment(const std::string& execution_id) {
  const auto found = attachments_.find(execution_id);
  return found == attachments_.end() ? nullptr : found->second.get();
}

void Connection::detach(const std::string& execution_id) { attachments_.erase(execution_id); }

void Connection::pump() {
  int frames = kPumpFrames;
  std::size_t idle = 0;
  auto at = attachments_.upper_bound(served_last_);
  while (frames > 0 && idle < attachments_.size() && !congested()) {
    if (at == attachments_.end()) {
      at = attachments_.begin();
    }
    served_last_ = at->first;
    switch (at->second->pump()) {
      case Attachment::Progress::kSent:
        --frames;
        idle = 0;
        ++at;
        break;
      case Attachment::Progress::kBlocked:
        ++idle;
        ++at;
        break;
      case Attachment::Progress::kFinished:
        at = attachments_.erase(at);
        idle = 0;
        break;
    }
  }
  pump_again_ = frames == 0;
  update_events();
}

void Connection::update_events() {
  if (closed_) {
    return;
  }
  const std::uint32_t input = congested() ? 0 : static_cast<std::uint32_t>(EPOLLIN);
  const std::uint32_t output =
      !out_.empty() || pump_again_ ? static_cast<std::uint32_t>(EPOLLOUT) : 0;
  if (output_) {
    input_watch_.set(input);
    output_watch_.set(output);
  } else {
    input_watch_.set(input | output);
  }
}

void Connection::close() {
  if (!closed_) {
    closed_ = true;
    input_watch_.clear();
    output_watch_.clear();
    out_.clear();
    out_sent_ = 0;
    owner_.on_closed(*this);
  }
}

}  // namespace runbus::agent
