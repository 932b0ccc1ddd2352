#include "gateway/http_server.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/beast/core/string.hpp>
#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/status.hpp>
#include <charconv>
#include <exception>
#include <limits>
#include <list>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "core/log.h"
#include "events/codec.h"

namespace leat::gateway {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using Executor = asio::io_context::executor_type;
using Socket = asio::basic_stream_socket<tcp, Executor>;
using Acceptor = asio::basic_socket_acceptor<tcp, Executor>;
using std::chrono::milliseconds;

constexpr std::string_view kComponent = "http";
constexpr std::string_view kCrlf = "\r\n";
constexpr std::string_view kHeadEnd = "\r\n\r\n";
constexpr std::string_view kProblemType = "application/problem+json";

constexpr size_t kTargetBytesMax = 8UL * 1024;        // longer ones get 414
constexpr size_t kInputBytesMin = 4UL * 1024;         // the read buffer of a new connection
constexpr size_t kInputBytesMax = 64UL * 1024;        // what it grows to for large bodies
constexpr size_t kRetainedBytesMax = 32UL * 1024;     // of each buffer of an idle connection
constexpr size_t kFlushBytes = 256UL * 1024;          // of pipelined answers, then they are sent
constexpr size_t kBodyBytesPerTimeout = 64UL * 1024;  // a slower client meets body_timeout
constexpr size_t kChunkLineBytesMax = 4UL * 1024;     // of a chunked body: size line, or trailer
constexpr size_t kDrainBytesMax = 4UL * 1024 * 1024;  // read and dropped before closing
constexpr milliseconds kDrainTimeout{2'000};
constexpr size_t kStreamThreads = 16;  // each waits for at most one stream
constexpr size_t kRefusalsMax = 64;  // connections over the limit that still get a 503
constexpr milliseconds kAcceptRetry{100};

std::string_view View(beast::string_view text) { return {text.data(), text.size()}; }

std::string_view ReasonOf(int status) {
  return View(http::obsolete_reason(http::int_to_status(static_cast<unsigned>(status))));
}

bool HasNoBody(int status) { return status == 204 || status == 304; }

bool EqualsIgnoringCase(std::string_view a, std::string_view b) {
  return beast::iequals({a.data(), a.size()}, {b.data(), b.size()});
}

std::string_view TrimBlanks(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

template <typename Number>
void AppendNumber(Number value, std::string* out, int base = 10) {
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof digits, value, base).ptr;
  out->append(digits, static_cast<size_t>(end - digits));
}

bool IsTokenChar(char c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
         (c != '\0' && std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos);
}

// Whether a request line ends in "HTTP/x.y": then a version we do not speak, else no HTTP at all.
bool EndsInHttpVersion(std::string_view line) {
  if (line.size() < 8) return false;
  line = line.substr(line.size() - 8);
  const auto digit = [&](size_t i) { return line[i] >= '0' && line[i] <= '9'; };
  return line.starts_with("HTTP/") && digit(5) && line[6] == '.' && digit(7);
}

// What the server answers by itself.
struct Refusal {
  int status = 0;  // 0: none
  std::string detail;
};

// Beast's parser, which keeps what a handler may ask for as views of the head, and the body in a
// string of the caller. The head must be given in one piece.
class RequestParser final : public http::basic_parser<true> {
 public:
  struct Head {
    std::string_view method, target, content_type, accept, authorization;
    std::string_view lines;  // the fields
  };

  RequestParser(const HttpOptions& options, std::string* body) : options_(options), body_(body) {
    eager(true);
    header_limit(std::numeric_limits<uint32_t>::max());  // the connection has checked it
  }

  // Takes `text`, the head with the empty line after it.
  void PutHead(std::string_view text, error_code* error) {
    text_ = text;
    put(asio::const_buffer(text.data(), text.size()), *error);
    if (*error == http::error::need_more) *error = {};
    const size_t line_end = text.find(kCrlf) + kCrlf.size();
    head_.lines = text.substr(line_end, text.size() - kCrlf.size() - line_end);
    if (*error && refusal_.status == 0) refusal_ = RefusalOf(*error);
  }
  // Takes a piece of the body; returns how much of it was used.
  size_t PutBody(std::string_view text, error_code* error) {
    const size_t used = put(asio::const_buffer(text.data(), text.size()), *error);
    if (*error == http::error::need_more) *error = {};
    if (*error && refusal_.status == 0) refusal_ = RefusalOf(*error);
    return used;
  }
  // Copies the head to `copy` and lets the views refer to it, because the read buffer is going to
  // move on.
  void MoveHead(std::string* copy) {
    copy->assign(text_);
    const auto move = [&](std::string_view* view) {
      if (view->empty()) return;
      const auto offset = static_cast<size_t>(view->data() - text_.data());
      *view = std::string_view(*copy).substr(offset, view->size());
    };
    for (auto* view : {&head_.method, &head_.target, &head_.content_type, &head_.accept,
                       &head_.authorization, &head_.lines}) {
      move(view);
    }
    text_ = *copy;
  }

  const Head& head() const { return head_; }
  bool Http11() const { return http11_; }
  // The client waits for "100 Continue" before it sends its body.
  bool ExpectsContinue() const { return expects_continue_; }
  Refusal TakeRefusal() { return std::move(refusal_); }

  static std::string_view PathOf(std::string_view target) {
    return target.substr(0, target.find('?'));
  }

 private:
  Refusal RefusalOf(error_code error) const {
    if (error == http::error::body_limit) return TooLarge();
    if (error == http::error::bad_version &&
        EndsInHttpVersion(text_.substr(0, text_.find(kCrlf)))) {
      return {505, "only HTTP/1.0 and HTTP/1.1 are spoken here"};
    }
    return {400, "malformed request: " + error.message()};
  }
  Refusal TooLarge() const {
    return {413, "the body is larger than " + std::to_string(body_bytes_max_) + " bytes"};
  }
  void Refuse(int status, std::string detail, error_code* error) {
    refusal_ = {status, std::move(detail)};
    *error = http::error::bad_value;
  }

  void on_request_impl(http::verb, beast::string_view method, beast::string_view target,
                       int version, error_code& error) override {
    if (target.size() > kTargetBytesMax) {
      return Refuse(414, "the URI is longer than " + std::to_string(kTargetBytesMax) + " bytes",
                    &error);
    }
    head_.method = View(method);
    head_.target = View(target);
    http11_ = version >= 11;
    // "http://host/path" is meant for proxies, but every server must take it.
    if (const size_t scheme = head_.target.find("://");
        !head_.target.starts_with('/') && scheme != std::string_view::npos) {
      const size_t slash = head_.target.find('/', scheme + 3);
      head_.target = slash == std::string_view::npos ? head_.target.substr(scheme + 1, 1)  // "/"
                                                     : head_.target.substr(slash);
    }
    body_bytes_max_ = options_.body_bytes_max_for
                          ? options_.body_bytes_max_for(head_.method, PathOf(head_.target))
                          : options_.body_bytes_max;
    body_limit(body_bytes_max_);
  }

  void on_field_impl(http::field name, beast::string_view, beast::string_view text,
                     error_code& error) override {
    if (head_done_) return;  // the trailer of a chunked body
    const std::string_view value = View(text);
    // Beast joins folded lines in a buffer of its own; RFC 9112 says to refuse them.
    if (!value.empty() &&
        (value.data() < text_.data() || value.data() >= text_.data() + text_.size())) {
      return Refuse(400, "a header goes over several lines", &error);
    }
    switch (name) {
      case http::field::content_type:
        head_.content_type = value;
        break;
      case http::field::accept:
        head_.accept = value;
        break;
      case http::field::authorization:
        head_.authorization = value;
        break;
      case http::field::host:
        if (has_host_) return Refuse(400, "more than one Host header", &error);
        has_host_ = true;
        break;
      case http::field::transfer_encoding:
        // With any other, two servers in a row could disagree on where the request ends.
        if (!EqualsIgnoringCase(value, "chunked")) {
          return Refuse(501, "the only Transfer-Encoding known here is chunked", &error);
        }
        break;
      case http::field::expect:
        if (!EqualsIgnoringCase(value, "100-continue")) {
          return Refuse(417, "the only expectation known here is 100-continue", &error);
        }
        expects_continue_ = http11_;
        break;
      default:
        break;
    }
  }

  void on_header_impl(error_code& error) override {
    head_done_ = true;
    if (http11_ && !has_host_) Refuse(400, "the Host header is missing", &error);
  }

  void on_body_init_impl(const boost::optional<uint64_t>& content_length, error_code&) override {
    // A large body has to come before it costs memory.
    if (content_length) body_->reserve(std::min<uint64_t>(*content_length, kRetainedBytesMax));
  }
  size_t on_body_impl(beast::string_view text, error_code&) override {
    body_->append(text.data(), text.size());
    return text.size();
  }
  void on_chunk_header_impl(uint64_t, beast::string_view, error_code&) override {}
  size_t on_chunk_body_impl(uint64_t, beast::string_view text, error_code&) override {
    body_->append(text.data(), text.size());
    return text.size();
  }
  void on_finish_impl(error_code&) override {}
  void on_response_impl(int, beast::string_view, int, error_code&) override {}

  const HttpOptions& options_;
  std::string* body_;
  std::string_view text_;
  Head head_;
  size_t body_bytes_max_ = 0;
  bool http11_ = false;
  bool has_host_ = false;
  bool head_done_ = false;
  bool expects_continue_ = false;
  Refusal refusal_;
};

// Added to by one thread, read by any.
class Counter {
 public:
  void Add(uint64_t n = 1) {
    value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  uint64_t Get() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_ = 0;
};

// What all threads of a server share.
struct Shared {
  Shared(HttpOptions given_options, Handler given_handler)
      : options(std::move(given_options)),
        handler(std::move(given_handler)),
        pool(std::max(1U, options.blocking_threads)),
        streams(kStreamThreads) {}

  const HttpOptions options;
  const Handler handler;
  // No new connection, and each answer is the last of its connection.
  std::atomic<bool> stopping = false;
  std::atomic<bool> forced = false;  // stop_timeout has passed
  std::atomic<uint64_t> connections_open = 0;
  std::atomic<uint64_t> refusals_open = 0;  // connections over the limit, being told so
  // Its queue is bounded by connections_max: a connection has at most one request in it.
  asio::thread_pool pool;
  // Streams wait for what is not there yet: neither an io thread nor a request may wait for them.
  asio::thread_pool streams;
};

// Coarse time: a deadline costs an addition, and no clock is read for a request.
using Ticks = uint64_t;
constexpr Ticks kNever = std::numeric_limits<Ticks>::max();

class Connection;

// An io thread with its connections. But for the constructor, Join and the counters, everything
// runs on the thread.
class Worker {
 public:
  explicit Worker(Shared* shared);

  void Run();
  void Join() {
    if (thread_.joinable()) thread_.join();
  }
  // `refused`: it gets a 503 in place of service. It has been counted as open.
  void Adopt(Socket socket, const tcp::endpoint& peer, bool refused);
  // Destroys the connection.
  void Remove(std::list<Connection>::iterator connection);
  void BeginStop();
  // The first tick at which `duration` has surely passed.
  Ticks After(milliseconds duration) const {
    return now_ + 1 + static_cast<Ticks>((duration + tick_ - milliseconds(1)) / tick_);
  }
  Ticks Now() const { return now_; }
  Shared& shared() { return *shared_; }
  asio::io_context& io() { return io_; }
  void StartThread() {
    thread_ = std::thread([this] { Run(); });
  }

  struct Counters {
    Counter requests, client_errors, server_errors, timeouts, streams_aborted, sent_bytes,
        connections_accepted, connections_refused;
  } counters;

 private:
  void StartTick();
  void OnTick();
  void FinishIfIdle();
  void CountClosed(bool refused) {
    --(refused ? shared_->refusals_open : shared_->connections_open);
  }

  Shared* const shared_;
  const milliseconds tick_;
  asio::io_context io_{1};
  asio::executor_work_guard<Executor> guard_{io_.get_executor()};
  asio::steady_timer timer_{io_};
  std::list<Connection> connections_;
  Ticks now_ = 0;
  Ticks stop_deadline_ = kNever;
  bool stopping_ = false;
  std::thread thread_;
};

// One client. At any time exactly one operation is under way (a read, a wait for the socket to take
// more, a job on the pool, a posted call), or, while a stream pauses, the tick is awaited. What
// completes it either starts the next or destroys the connection, so plain pointers to it in
// completion handlers are sound.
class Connection {
 public:
  Connection(Worker* worker, Socket socket, const asio::ip::address& peer, bool refused)
      : worker_(*worker),
        options_(worker->shared().options),
        socket_(std::move(socket)),
        peer_(peer.to_string()),
        loopback_(peer.is_loopback()),
        refused_(refused) {}
  ~Connection() {
    if (!stream_) return;
    // What it holds may have to be waited for.
    asio::post(worker_.shared().streams,
               [stream = std::move(stream_)]() mutable { stream = nullptr; });
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void Start(std::list<Connection>::iterator self);
  bool refused() const { return refused_; }
  // These two may destroy it.
  void OnTick();
  void OnStop();
  // Lets the operation under way fail. A stream that pauses has none: OnStop has ended it.
  void ForceClose() {
    error_code ignored;
    socket_.close(ignored);
  }

 private:
  // What is under way.
  enum class Phase { kReadIdle, kReadHead, kReadBody, kWrite, kWork, kPause, kDrain };
  // What to do next. Before any but the steps that add to out_, it is sent.
  enum class Step {
    kParse,   // the next request of in_
    kRead,    // more of it
    kSubmit,  // request_ to the blocking pool
    kDefer,   // the handler has left response_ to somebody else
    kAnswer,  // the handler has filled response_
    kStream,  // the next piece of stream_, from the pool of streams
    kMore,    // kStream again
    kPause,   // kStream at the next tick
    kClose,   // the client has got everything
    kAbort,   // the client must see that something is missing
  };

  // Runs `f`; what it throws (memory ran out, or a callback threw) costs the connection and nothing
  // else.
  template <typename F>
  void Guarded(F f) {
    try {
      f();
    } catch (const std::exception& e) {
      core::LogError(kComponent, std::string("connection dropped: ") + e.what());
      Destroy();
    } catch (...) {
      core::LogError(kComponent, "connection dropped: unknown exception");
      Destroy();
    }
  }

  void Run(Step step);
  Step Parse();
  Step RefuseLongHead(std::string_view head);
  Step Dispatch();
  void CallHandler();
  Step Answer();
  void Pump();
  Result<HttpResponse::Streamed> Pull();
  Step Give(const Result<HttpResponse::Streamed>& streamed);
  Step Refuse(int status, std::string_view detail);
  void EndRequest();

  void AppendHead(bool keep_alive, bool http11, bool streamed);
  void Count(int status);

  void Read();
  void MakeRoom();
  void ReleaseMemory();
  void OnRead(error_code error, size_t size);
  enum class Sent { kAll, kBlocked, kFailed };
  Sent Send();
  void AwaitWritable(Step then);
  void Submit();
  void AwaitAnswer();
  void Drain();
  void OnDrained(error_code error, size_t size);
  void Abort();
  void Destroy() { worker_.Remove(self_); }

  std::string_view Unread() const { return {in_.data() + in_begin_, in_end_ - in_begin_}; }

  Worker& worker_;
  const HttpOptions& options_;
  Socket socket_;
  const std::string peer_;
  const bool loopback_;
  const bool refused_;
  std::list<Connection>::iterator self_;

  Phase phase_ = Phase::kReadIdle;
  bool expired_ = false;              // OnTick has cancelled what is under way
  Ticks deadline_ = kNever;           // of what is under way
  Ticks request_deadline_ = 0;        // of the head or body being read; 0: not set yet
  size_t body_bytes_in_timeout_ = 0;  // read since then

  std::vector<char> in_ = std::vector<char>(kInputBytesMin);
  size_t in_begin_ = 0;
  size_t in_end_ = 0;
  bool in_filled_ = false;    // the last read took all the room there was
  size_t head_searched_ = 0;  // so much of Unread() holds no end of a head
  std::optional<RequestParser> parser_;
  std::string head_copy_;
  std::string body_;
  HttpRequest request_;
  HttpResponse response_;

  std::string out_;
  size_t out_sent_ = 0;
  HttpResponse::Stream stream_;
  std::string stream_name_;  // for the log
  std::string_view stream_heartbeat_;
  Ticks heartbeat_at_ = kNever;
  bool stream_chunked_ = false;
  bool stream_keep_alive_ = false;
  size_t drained_ = 0;
};

// ---- Connection: the steps ----

void Connection::Start(std::list<Connection>::iterator self) {
  self_ = self;
  Guarded([&] {
    error_code ignored;
    socket_.set_option(tcp::no_delay(true), ignored);
    socket_.non_blocking(true, ignored);
    if (!refused_) return Run(Step::kRead);
    Run(Refuse(503, "the server has " + std::to_string(options_.connections_max) +
                        " connections and takes no more"));
  });
}

void Connection::Run(Step step) {
  for (;;) {
    const bool adds = step == Step::kParse || step == Step::kAnswer;
    if (!out_.empty() && (!adds || out_.size() >= kFlushBytes)) {
      switch (Send()) {
        case Sent::kAll:
          break;
        case Sent::kBlocked:
          return AwaitWritable(step);
        case Sent::kFailed:
          return Destroy();
      }
    }
    switch (step) {
      case Step::kParse:
        step = Parse();
        break;
      case Step::kRead:
        return Read();
      case Step::kSubmit:
        return Submit();
      case Step::kDefer:
        phase_ = Phase::kWork;
        deadline_ = kNever;
        return AwaitAnswer();
      case Step::kAnswer:
        step = Answer();
        break;
      case Step::kStream:
        return Pump();
      case Step::kMore:
        // With nothing to send, nobody else would see that the socket was closed.
        if (worker_.shared().forced) return Abort();
        return Pump();
      case Step::kPause:
        if (worker_.shared().stopping) return Abort();
        phase_ = Phase::kPause;
        return;
      case Step::kClose:
        return Drain();
      case Step::kAbort:
        return Abort();
    }
  }
}

Connection::Step Connection::Parse() {
  if (!parser_) {
    while (Unread().starts_with(kCrlf)) in_begin_ += kCrlf.size();  // as RFC 9112 2.2 advises
    const std::string_view unread = Unread();
    if (unread.empty()) return Step::kRead;
    const size_t end = unread.find(kHeadEnd, head_searched_);
    const size_t size = end == std::string_view::npos ? unread.size() : end + kHeadEnd.size();
    if (size > options_.header_bytes_max) return RefuseLongHead(unread);
    if (end == std::string_view::npos) {
      if (!IsTokenChar(unread[0]) && unread != "\r") {
        return Refuse(400, "this is not HTTP; is it TLS to a plain port?");
      }
      head_searched_ = unread.size() - std::min(unread.size(), kHeadEnd.size() - 1);
      return Step::kRead;
    }
    head_searched_ = 0;
    request_deadline_ = 0;
    error_code error;
    parser_.emplace(options_, &body_);
    parser_->PutHead(unread.substr(0, size), &error);
    in_begin_ += size;
    if (error) {
      const Refusal refusal = parser_->TakeRefusal();
      return Refuse(refusal.status, refusal.detail);
    }
    if (!parser_->is_done() && in_begin_ == in_end_ && parser_->ExpectsContinue()) {
      out_ += "HTTP/1.1 100 Continue\r\n\r\n";
    }
  }
  if (!parser_->is_done() && in_begin_ != in_end_) {
    error_code error;
    in_begin_ += parser_->PutBody(Unread(), &error);
    if (error) {
      const Refusal refusal = parser_->TakeRefusal();
      return Refuse(refusal.status, refusal.detail);
    }
  }
  if (parser_->is_done()) return Dispatch();
  if (Unread().size() > kChunkLineBytesMax)
    return Refuse(400, "a chunk line or trailer is too long");
  if (head_copy_.empty()) parser_->MoveHead(&head_copy_);
  return Step::kRead;
}

Connection::Step Connection::RefuseLongHead(std::string_view head) {
  if (head.substr(0, options_.header_bytes_max).find(kCrlf) == std::string_view::npos) {
    return Refuse(414, "the URI is too long");
  }
  return Refuse(431, "the head of the request is larger than " +
                         std::to_string(options_.header_bytes_max) + " bytes");
}

Connection::Step Connection::Dispatch() {
  const RequestParser::Head& head = parser_->head();
  request_.method = head.method;
  request_.path = RequestParser::PathOf(head.target);
  request_.query = head.target.substr(std::min(head.target.size(), request_.path.size() + 1));
  request_.body = body_;
  request_.content_type = head.content_type;
  request_.accept = head.accept;
  request_.authorization = head.authorization;
  request_.peer = peer_;
  request_.loopback = loopback_;
  request_.header_lines = head.lines;
  response_.Reset();
  if (options_.is_blocking && options_.is_blocking(head.method, head.target)) {
    return Step::kSubmit;
  }
  CallHandler();
  return response_.deferred() ? Step::kDefer : Answer();
}

// On the io thread or on the pool.
void Connection::CallHandler() {
  const auto failed = [&](std::string_view what) {
    core::LogError(kComponent, std::string(request_.method) + " " + std::string(request_.path) +
                                   ": the handler threw: " + std::string(what));
    response_.Reset();
    response_.SetProblem(500, "an internal error; the server's log says more");
  };
  try {
    worker_.shared().handler(request_, response_);
  } catch (const std::exception& e) {
    failed(e.what());
  } catch (...) {
    failed("unknown exception");
  }
}

Connection::Step Connection::Answer() {
  const bool http11 = parser_->Http11();
  bool keep_alive =
      parser_->keep_alive() && !worker_.shared().stopping.load(std::memory_order_relaxed);
  const bool bodiless = request_.method == "HEAD" || HasNoBody(response_.status());
  const bool streamed = response_.stream() != nullptr;
  if (streamed && !http11 && !bodiless)
    keep_alive = false;  // there, a body of unknown length ends with the connection
  Count(response_.status());
  AppendHead(keep_alive, http11, streamed);
  stream_heartbeat_ = response_.heartbeat();
  stream_ = response_.TakeStream();
  if (streamed && !bodiless) {
    stream_name_.assign(request_.method).append(" ").append(request_.path);
    stream_chunked_ = http11;
    stream_keep_alive_ = keep_alive;
    heartbeat_at_ = worker_.After(options_.heartbeat);
    EndRequest();
    return Step::kStream;
  }
  stream_ = nullptr;
  if (!bodiless) out_ += response_.body();
  EndRequest();
  return keep_alive ? Step::kParse : Step::kClose;
}

// It may have to be waited for.
void Connection::Pump() {
  phase_ = Phase::kWork;
  deadline_ = kNever;
  asio::post(worker_.shared().streams, [this] {
    auto streamed = worker_.shared().forced
                        ? Fail(ErrorClass::kUnavailable, "the server is stopping")
                        : Pull();
    asio::post(socket_.get_executor(), [this, streamed = std::move(streamed)] {
      Guarded([&] { Run(Give(streamed)); });
    });
  });
}

// On the pool of streams. A stream ends there, too: what it holds may have to be waited for.
Result<HttpResponse::Streamed> Connection::Pull() {
  std::string& chunk = response_.body();
  chunk.clear();
  Result<HttpResponse::Streamed> streamed = HttpResponse::Streamed::kEnd;
  try {
    streamed = stream_(&chunk);
  } catch (const std::exception& e) {
    streamed = Fail(ErrorClass::kInternal, std::string("the stream threw: ") + e.what());
  } catch (...) {
    streamed = Fail(ErrorClass::kInternal, "the stream threw: unknown exception");
  }
  if (!streamed || *streamed == HttpResponse::Streamed::kEnd) stream_ = nullptr;
  return streamed;
}

Connection::Step Connection::Give(const Result<HttpResponse::Streamed>& streamed) {
  std::string& chunk = response_.body();
  if (!streamed) {
    core::LogError(kComponent, stream_name_ + ": answer cut short: " + streamed.error().Text());
    return Step::kAbort;
  }
  const bool ends = *streamed == HttpResponse::Streamed::kEnd;
  if (chunk.empty() && !ends && worker_.Now() >= heartbeat_at_) chunk = stream_heartbeat_;
  if (!chunk.empty()) {
    heartbeat_at_ = worker_.After(options_.heartbeat);
    if (stream_chunked_) {
      AppendNumber(chunk.size(), &out_, 16);
      out_ += kCrlf;
    }
    out_ += chunk;
    if (stream_chunked_) out_ += kCrlf;
  }
  if (!ends) return *streamed == HttpResponse::Streamed::kMore ? Step::kMore : Step::kPause;
  if (stream_chunked_) out_ += "0\r\n\r\n";
  return stream_keep_alive_ ? Step::kParse : Step::kClose;
}

// The answer to what cannot be served; the last one of the connection.
Connection::Step Connection::Refuse(int status, std::string_view detail) {
  response_.Reset();
  response_.SetProblem(status, detail);
  if (status == 503) response_.AddHeader("Retry-After", "1");
  Count(status);
  AppendHead(/*keep_alive=*/false, /*http11=*/true, /*streamed=*/false);
  // A refused HEAD has no body either; whether it is one is known once the request line was read.
  if (!parser_ || parser_->head().method != "HEAD") out_ += response_.body();
  EndRequest();
  return Step::kClose;
}

void Connection::EndRequest() {
  parser_.reset();
  head_copy_.clear();
  body_.clear();
  request_deadline_ = 0;
  body_bytes_in_timeout_ = 0;
}

void Connection::AppendHead(bool keep_alive, bool http11, bool streamed) {
  const int status = response_.status();
  if (status == 200) {
    out_ += "HTTP/1.1 200 OK\r\nContent-Type: ";
    out_ += response_.content_type();
    out_ += kCrlf;
  } else {
    out_ += "HTTP/1.1 ";
    AppendNumber(status, &out_);
    out_.append(" ").append(ReasonOf(status)).append(kCrlf);
    if (!HasNoBody(status)) {
      out_.append("Content-Type: ").append(response_.content_type()).append(kCrlf);
    }
  }
  if (!streamed && !HasNoBody(status)) {
    out_ += "Content-Length: ";
    AppendNumber(response_.body().size(), &out_);
    out_ += kCrlf;
  } else if (streamed && http11 && !HasNoBody(status)) {
    out_ += "Transfer-Encoding: chunked\r\n";
  }
  if (!keep_alive) {
    out_ += "Connection: close\r\n";
  } else if (!http11) {
    out_ += "Connection: keep-alive\r\n";
  }
  out_ += response_.header_lines();
  out_ += kCrlf;
}

void Connection::Count(int status) {
  worker_.counters.requests.Add();
  if (status >= 500) {
    worker_.counters.server_errors.Add();
  } else if (status >= 400) {
    worker_.counters.client_errors.Add();
  }
}

// ---- Connection: what is waited for ----

void Connection::Read() {
  if (parser_) {
    phase_ = Phase::kReadBody;
    if (request_deadline_ == 0 || body_bytes_in_timeout_ >= kBodyBytesPerTimeout) {
      request_deadline_ = worker_.After(options_.body_timeout);
      body_bytes_in_timeout_ = 0;
    }
    deadline_ = request_deadline_;
  } else if (in_begin_ != in_end_) {
    phase_ = Phase::kReadHead;
    if (request_deadline_ == 0) request_deadline_ = worker_.After(options_.header_timeout);
    deadline_ = request_deadline_;
  } else {
    if (worker_.shared().stopping.load(std::memory_order_relaxed)) return Drain();
    phase_ = Phase::kReadIdle;
    request_deadline_ = 0;
    deadline_ = worker_.After(options_.idle_timeout);
    ReleaseMemory();
  }
  MakeRoom();
  socket_.async_read_some(
      asio::buffer(in_.data() + in_end_, in_.size() - in_end_),
      [this](error_code error, size_t size) { Guarded([&] { OnRead(error, size); }); });
}

// Nothing refers into in_ now: a head that has been parsed was answered or copied.
void Connection::MakeRoom() {
  if (in_begin_ != 0) {
    std::copy(in_.data() + in_begin_, in_.data() + in_end_, in_.data());
    in_end_ -= in_begin_;
    in_begin_ = 0;
  }
  if (in_filled_ || in_end_ == in_.size()) {
    // A head may use one byte more than its limit, to be seen as too long; a chunk line less.
    const size_t size_max = std::max(kInputBytesMax, options_.header_bytes_max + kInputBytesMin);
    in_.resize(std::min(in_.size() * 2, size_max));
    in_filled_ = false;
  }
  LEAT_ASSERT(in_end_ < in_.size());
}

void Connection::ReleaseMemory() {
  in_begin_ = in_end_ = 0;
  if (in_.size() > kRetainedBytesMax) in_ = std::vector<char>(kInputBytesMin);
  for (std::string* buffer : {&out_, &body_, &head_copy_, &response_.body()}) {
    if (buffer->capacity() > kRetainedBytesMax) std::string().swap(*buffer);
  }
}

void Connection::OnRead(error_code error, size_t size) {
  if (!error) {
    expired_ = false;  // what came just in time counts
    in_end_ += size;
    in_filled_ = in_end_ == in_.size();
    if (phase_ == Phase::kReadBody) body_bytes_in_timeout_ += size;
    return Run(Step::kParse);
  }
  if (phase_ == Phase::kReadIdle) return Destroy();
  if (error == asio::error::eof) return Run(Refuse(400, "the request ended early"));
  if (expired_ && socket_.is_open()) {
    expired_ = false;
    return Run(Refuse(408, phase_ == Phase::kReadHead ? "the head of the request took too long"
                                                      : "the body of the request took too long"));
  }
  Destroy();
}

Connection::Sent Connection::Send() {
  while (out_sent_ < out_.size()) {
    error_code error;
    const size_t size =
        socket_.write_some(asio::buffer(out_.data() + out_sent_, out_.size() - out_sent_), error);
    out_sent_ += size;
    worker_.counters.sent_bytes.Add(size);
    if (error == asio::error::would_block || error == asio::error::try_again) return Sent::kBlocked;
    if (error == asio::error::interrupted) continue;
    if (error) return Sent::kFailed;
  }
  out_.clear();
  out_sent_ = 0;
  return Sent::kAll;
}

void Connection::AwaitWritable(Step then) {
  phase_ = Phase::kWrite;
  deadline_ = worker_.After(options_.write_timeout);
  socket_.async_wait(Socket::wait_write, [this, then](error_code error) {
    Guarded([&] { error ? Destroy() : Run(then); });
  });
}

void Connection::Submit() {
  phase_ = Phase::kWork;
  deadline_ = kNever;
  asio::post(worker_.shared().pool, [this] {
    if (worker_.shared().forced) {
      response_.SetProblem(503, "the server is stopping");
    } else {
      CallHandler();
    }
    AwaitAnswer();
  });
}

// On the io thread or on the pool.
void Connection::AwaitAnswer() {
  const auto answered = [this] {
    asio::post(socket_.get_executor(), [this] { Guarded([&] { Run(Step::kAnswer); }); });
  };
  const auto begin = response_.TakeDeferred();
  begin ? begin(answered) : answered();
}

// Closes our side and waits for the client's: closing both at once, with something of the client's
// unread, would make the system send a reset, which may overtake the answer.
void Connection::Drain() {
  if (phase_ != Phase::kDrain) {
    error_code error;
    socket_.shutdown(Socket::shutdown_send, error);
    if (error) return Destroy();
    phase_ = Phase::kDrain;
    deadline_ = worker_.After(kDrainTimeout);
  }
  socket_.async_read_some(
      asio::buffer(in_.data(), in_.size()),
      [this](error_code error, size_t size) { Guarded([&] { OnDrained(error, size); }); });
}

void Connection::OnDrained(error_code error, size_t size) {
  drained_ += size;
  if (error || drained_ > kDrainBytesMax) return Destroy();
  Drain();
}

void Connection::Abort() {
  worker_.counters.streams_aborted.Add();
  error_code ignored;
  if (!stream_chunked_) {
    // The end of the connection would be the end of the body; a reset is not. (Closed here, because
    // Asio's destructor ignores linger.)
    socket_.set_option(asio::socket_base::linger(true, 0), ignored);
    socket_.close(ignored);
  }
  Destroy();
}

void Connection::OnTick() {
  if (phase_ == Phase::kPause) return Guarded([&] { Run(Step::kStream); });
  if (worker_.Now() < deadline_) return;
  if (!expired_ && phase_ != Phase::kReadIdle && phase_ != Phase::kDrain) {
    worker_.counters.timeouts.Add();
  }
  expired_ = true;
  error_code ignored;
  socket_.cancel(ignored);
}

void Connection::OnStop() {
  if (phase_ == Phase::kPause) return Abort();
  if (phase_ != Phase::kReadIdle) return;
  error_code ignored;
  socket_.cancel(ignored);
}

// ---- Worker ----

// An IPv4 client of a listener on "::" as an IPv4 address.
asio::ip::address WithoutMapping(const asio::ip::address& address) {
  if (!address.is_v6() || !address.to_v6().is_v4_mapped()) return address;
  return asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6());
}

Worker::Worker(Shared* shared)
    : shared_(shared), tick_(std::max(shared->options.tick, milliseconds(1))) {}

void Worker::Run() {
  StartTick();
  for (;;) {
    try {
      io_.run();
      return;
    } catch (const std::exception& e) {  // a connection that could not be adopted
      core::LogError(kComponent, std::string("io thread: ") + e.what());
    }
  }
}

void Worker::Adopt(Socket socket, const tcp::endpoint& peer, bool refused) {
  if (stopping_) return CountClosed(refused);
  try {
    connections_.emplace_front(this, std::move(socket), WithoutMapping(peer.address()), refused);
  } catch (...) {
    CountClosed(refused);
    throw;
  }
  (refused ? counters.connections_refused : counters.connections_accepted).Add();
  connections_.front().Start(connections_.begin());
}

void Worker::Remove(std::list<Connection>::iterator connection) {
  const bool refused = connection->refused();
  connections_.erase(connection);
  CountClosed(refused);
  FinishIfIdle();
}

void Worker::BeginStop() {
  stopping_ = true;
  stop_deadline_ = After(shared_->options.stop_timeout);
  for (auto it = connections_.begin(); it != connections_.end();) (it++)->OnStop();
  FinishIfIdle();
}

void Worker::StartTick() {
  timer_.expires_after(tick_);
  timer_.async_wait([this](error_code error) {
    if (!error) OnTick();
  });
}

void Worker::OnTick() {
  ++now_;
  for (auto it = connections_.begin(); it != connections_.end();) (it++)->OnTick();
  if (now_ >= stop_deadline_ && !connections_.empty()) {
    shared_->forced = true;
    for (Connection& connection : connections_) connection.ForceClose();
  }
  if (!(stopping_ && connections_.empty())) StartTick();
}

void Worker::FinishIfIdle() {
  if (!stopping_ || !connections_.empty()) return;
  timer_.cancel();
  guard_.reset();
}

// "127.0.0.1:8080", "[::1]:8080"
std::string HostAndPort(const std::string& host, uint16_t port) {
  const bool colons = host.find(':') != std::string::npos;
  return (colons ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Error ListenError(error_code error, const HttpOptions& options) {
  const std::string message =
      "cannot listen on " + HostAndPort(options.host, options.port) + ": " + error.message();
  if (error == asio::error::address_in_use) {
    return {ErrorClass::kConflict, message,
            "stop what listens there, or choose another port with --port"};
  }
  if (error == asio::error::access_denied) {
    return {ErrorClass::kInvalid, message, "choose a port above 1023 with --port"};
  }
  if (error == boost::system::errc::address_not_available) {
    return {ErrorClass::kInvalid, message, "give an address of this machine with --host"};
  }
  return {ErrorClass::kUnavailable, message, ""};
}

}  // namespace

// ---- HttpServer ----

struct HttpServer::Impl {
  Impl(HttpOptions options, Handler handler) : shared(std::move(options), std::move(handler)) {
    const unsigned threads = std::max(1U, shared.options.threads);
    for (unsigned i = 0; i < threads; ++i) workers.push_back(std::make_unique<Worker>(&shared));
    acceptor.emplace(workers[0]->io());
    accept_timer.emplace(workers[0]->io());
  }

  Status Listen();
  void Accept();
  void Accepted(Worker* worker, Socket socket);
  void Stop();

  Shared shared;
  std::vector<std::unique_ptr<Worker>> workers;
  // These are used on the first worker's thread.
  std::optional<Acceptor> acceptor;
  std::optional<asio::steady_timer> accept_timer;
  tcp::endpoint peer;
  size_t next_worker = 0;

  uint16_t port = 0;
  std::once_flag stopped;
};

Status HttpServer::Impl::Listen() {
  const HttpOptions& options = shared.options;
  error_code error;
  tcp::resolver resolver(workers[0]->io());
  const auto found =
      resolver.resolve(options.host, std::to_string(options.port),
                       tcp::resolver::passive | tcp::resolver::numeric_service, error);
  if (error || found.empty()) {
    return Invalid("\"" + options.host + "\" is no address of this machine: " + error.message(),
                   "give one with --host, such as 127.0.0.1");
  }
  const tcp::endpoint endpoint = found.begin()->endpoint();
  acceptor->open(endpoint.protocol(), error);
  if (!error) acceptor->set_option(asio::socket_base::reuse_address(true), error);
  if (!error) acceptor->bind(endpoint, error);
  if (!error) acceptor->listen(asio::socket_base::max_listen_connections, error);
  tcp::endpoint bound;
  if (!error) bound = acceptor->local_endpoint(error);
  if (error) return std::unexpected(ListenError(error, options));
  port = bound.port();
  return {};
}

void HttpServer::Impl::Accept() {
  Worker* const worker = workers[next_worker++ % workers.size()].get();
  acceptor->async_accept(worker->io(), peer, [this, worker](error_code error, Socket socket) {
    if (shared.stopping || error == asio::error::operation_aborted) return;
    if (!error) {
      Accepted(worker, std::move(socket));
      return Accept();
    }
    // Most likely out of file descriptors: again at once would be a busy loop.
    core::LogWarning(kComponent, "cannot accept a connection: " + error.message());
    accept_timer->expires_after(kAcceptRetry);
    accept_timer->async_wait([this](error_code cancelled) {
      if (!cancelled && !shared.stopping) Accept();
    });
  });
}

void HttpServer::Impl::Accepted(Worker* worker, Socket socket) {
  // Only this thread adds to the two counts, so they do not pass their limits.
  const bool refused = shared.connections_open >= shared.options.connections_max;
  if (refused && shared.refusals_open >= kRefusalsMax) return;
  ++(refused ? shared.refusals_open : shared.connections_open);
  asio::dispatch(worker->io(), [worker, from = peer, refused, taken = std::move(socket)]() mutable {
    worker->Adopt(std::move(taken), from, refused);
  });
}

void HttpServer::Impl::Stop() {
  std::call_once(stopped, [this] {
    shared.stopping = true;
    for (size_t i = 0; i < workers.size(); ++i) {
      asio::post(workers[i]->io(), [this, i] {
        if (i == 0) {
          error_code ignored;
          acceptor->close(ignored);
          accept_timer->cancel();
        }
        workers[i]->BeginStop();
      });
    }
    for (auto& worker : workers) worker->Join();
    shared.pool.join();
    shared.streams.join();
  });
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() { Stop(); }

Result<std::unique_ptr<HttpServer>> HttpServer::Start(HttpOptions options, Handler handler) {
  LEAT_ASSERT(handler != nullptr);
  try {
    auto impl = std::make_unique<Impl>(std::move(options), std::move(handler));
    LEAT_TRY(impl->Listen());
    impl->Accept();
    // From here on the destructor of `server` ends the threads.
    std::unique_ptr<HttpServer> server(new HttpServer(std::move(impl)));
    for (auto& worker : server->impl_->workers) worker->StartThread();
    return server;
  } catch (const std::exception& e) {
    return Fail(ErrorClass::kUnavailable, std::string("cannot start the HTTP server: ") + e.what());
  }
}

uint16_t HttpServer::port() const { return impl_->port; }

void HttpServer::Stop() { impl_->Stop(); }

HttpStats HttpServer::stats() const {
  HttpStats stats;
  for (const auto& worker : impl_->workers) {
    const Worker::Counters& counters = worker->counters;
    stats.requests += counters.requests.Get();
    stats.client_errors += counters.client_errors.Get();
    stats.server_errors += counters.server_errors.Get();
    stats.timeouts += counters.timeouts.Get();
    stats.streams_aborted += counters.streams_aborted.Get();
    stats.sent_bytes += counters.sent_bytes.Get();
    stats.connections_accepted += counters.connections_accepted.Get();
    stats.connections_refused += counters.connections_refused.Get();
  }
  stats.connections_open = impl_->shared.connections_open;
  return stats;
}

// ---- HttpRequest and HttpResponse ----

std::string_view HttpRequest::Header(std::string_view name) const {
  std::string_view rest = header_lines;
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find(kCrlf));
    rest.remove_prefix(std::min(rest.size(), line.size() + kCrlf.size()));
    const size_t colon = line.find(':');
    if (colon != std::string_view::npos && EqualsIgnoringCase(line.substr(0, colon), name)) {
      return TrimBlanks(line.substr(colon + 1));
    }
  }
  return {};
}

void HttpResponse::SetStatus(int status) {
  LEAT_ASSERT(status >= 200 && status <= 599);
  status_ = status;
}

void HttpResponse::AddHeader(std::string_view name, std::string_view value) {
  LEAT_ASSERT(!name.empty() && std::all_of(name.begin(), name.end(), IsTokenChar));
  header_lines_.append(name).append(": ");
  for (const char c : value) {
    const auto byte = static_cast<uint8_t>(c);
    header_lines_.push_back((byte < 0x20 && c != '\t') || byte == 0x7f ? ' ' : c);
  }
  header_lines_ += kCrlf;
}

void HttpResponse::SetProblem(int status, std::string_view detail) {
  SetStatus(status);
  content_type_ = kProblemType;
  stream_ = nullptr;
  body_ = "{\"type\":\"about:blank\",\"title\":";
  events::AppendJsonString(ReasonOf(status), &body_);
  body_ += ",\"status\":";
  AppendNumber(status, &body_);
  body_ += ",\"detail\":";
  problem_ = detail;
  events::AppendJsonString(problem_, &body_);
  body_ += "}";
}

HttpResponse::Stream HttpResponse::TakeStream() { return std::exchange(stream_, nullptr); }
HttpResponse::Begin HttpResponse::TakeDeferred() { return std::exchange(begin_, nullptr); }

void HttpResponse::Reset() {
  status_ = 200;
  content_type_ = "application/json";
  header_lines_.clear();
  body_.clear();
  problem_.clear();
  stream_ = nullptr;
  begin_ = nullptr;
}

}  // namespace leat::gateway
