// HTTP/1.1 for the gateway: a small server around Beast's parser, built for many cheap GETs.
//
// Each io thread owns an io_context and the connections dealt to it, so nothing on the read path is
// locked or shared. A handler runs inline on its connection's io thread and must then be quick;
// what waits for a disk or a lock is named by HttpOptions::is_blocking and runs on the pool of
// blocking threads.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "core/result.h"

namespace leat::gateway {

// One request. Every view is valid until the handler returns; a stream copies what it needs later.
struct HttpRequest {
  std::string_view method;  // as sent; HEAD too, of whose answer the server sends the head only
  std::string_view path;    // raw, still percent-encoded, without the query
  std::string_view query;   // raw, without '?'
  std::string_view body;    // whole and dechunked
  std::string_view content_type;  // empty where the client sent none; so are the next two
  std::string_view accept;
  std::string_view authorization;
  std::string_view peer;          // the client's address, without the port
  bool loopback = false;          // the client is on this machine
  bool trusted = false;           // whoever sent it was let in before: no token is asked for
  bool forwarded = false;         // it came from another process's gateway: it goes no further
  std::string_view header_lines;  // all fields as sent, each ended by CRLF

  // The first header of that name (any case), without the space around it; empty where there is
  // none. Scans the lines: for the rare ones.
  std::string_view Header(std::string_view name) const;
};

// What a handler fills in: 200, application/json and an empty body to begin with. One belongs to
// each connection and is reused, so that a typical answer allocates nothing. Not thread-safe.
class HttpResponse {
 public:
  // What a stream says when it has given a piece.
  enum class Streamed {
    kMore,      // ask again as soon as the piece is sent, also if it is empty
    kCaughtUp,  // there is no more yet: ask again in HttpOptions::tick or less
    kEnd,
  };
  // Appends the next piece of a body, about kStreamChunkBytes at most. Called on a thread of streams,
  // one call at a time, whenever the socket took the last piece. An error (or an
  // exception) cuts the connection before the end of the body, so that the client sees that it is
  // incomplete.
  using Stream = std::function<Result<Streamed>(std::string* chunk)>;

  // 200 to 599.
  void SetStatus(int status);
  // `content_type` must live until the answer is sent: a literal.
  void SetContentType(std::string_view content_type) { content_type_ = content_type; }
  // `name` is a token (asserted). Control characters of `value` become spaces: it cannot end the
  // line. Content-Type, Content-Length, Transfer-Encoding and Connection are the server's own.
  void AddHeader(std::string_view name, std::string_view value);
  // To be appended to.
  std::string& body() { return body_; }
  const std::string& body() const { return body_; }
  // Sends what `stream` gives in place of body(), which is ignored. `heartbeat` is sent when it has
  // given nothing for HttpOptions::heartbeat: so the client sees that the server is there, and the
  // server that the client has gone. It must live until the answer is sent: a literal. Empty: none.
  void SetStream(Stream stream, std::string_view heartbeat = {}) {
    stream_ = std::move(stream);
    heartbeat_ = heartbeat;
  }
  // For what somebody else is going to answer: the thread is given back, and the answer is sent once `answered` was called,
  // from any thread and exactly once. `begin` is called when the handler has returned; until `answered` is called this
  // response is whoever's `begin` gives it to, and the request is gone. It must be quick and not throw. HttpServer::Stop waits
  // for the answer.
  using Begin = std::function<void(std::function<void()> answered)>;
  void Defer(Begin begin) { begin_ = std::move(begin); }
  bool deferred() const { return begin_ != nullptr; }
  Begin TakeDeferred();
  // Replaces what there is by an RFC 9457 problem document. `detail` is UTF-8.
  void SetProblem(int status, std::string_view detail);

  // What the problem document says; empty without one.
  const std::string& problem() const { return problem_; }

  int status() const { return status_; }
  std::string_view content_type() const { return content_type_; }
  // "Name: value\r\n" of each AddHeader.
  const std::string& header_lines() const { return header_lines_; }
  const Stream& stream() const { return stream_; }
  std::string_view heartbeat() const { return heartbeat_; }
  Stream TakeStream();
  // As new, keeping the buffers.
  void Reset();

 private:
  int status_ = 200;
  std::string_view content_type_ = "application/json";
  std::string header_lines_;
  std::string body_;
  std::string problem_;
  Stream stream_;
  std::string_view heartbeat_;
  Begin begin_;
};

// What a stream should append at most in one call.
inline constexpr size_t kStreamChunkBytes = 64UL * 1024;

// Called on several threads at once. May throw: the client gets a 500 and the log the reason.
using Handler = std::function<void(const HttpRequest&, HttpResponse&)>;

struct HttpOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 8080;  // 0: any free one, see HttpServer::port
  unsigned threads = 1;
  unsigned blocking_threads = 2;

  size_t header_bytes_max = 16UL * 1024;  // request line and fields; beyond it 431, or 414
  size_t body_bytes_max = 1024UL * 1024;  // beyond it 413
  size_t connections_max = 10'000;        // beyond it 503
  // The largest body of one route in place of body_bytes_max; may be empty. Called on io threads.
  std::function<size_t(std::string_view method, std::string_view path)> body_bytes_max_for;
  // The requests that run on the blocking pool; empty: none. `target` is the path with the query, as
  // sent. Called on io threads.
  std::function<bool(std::string_view method, std::string_view target)> is_blocking;

  // Deadlines are checked every `tick`, so they pass up to two ticks late.
  std::chrono::milliseconds header_timeout{10'000};  // first byte to the end of the head; then 408
  std::chrono::milliseconds body_timeout{30'000};    // for each 64 KiB of a body; then 408
  std::chrono::milliseconds idle_timeout{60'000};    // between requests; then it is closed
  std::chrono::milliseconds write_timeout{30'000};   // the client takes nothing; then it is closed
  std::chrono::milliseconds heartbeat{5'000};        // of a stream that has nothing to give
  std::chrono::milliseconds stop_timeout{5'000};     // for the requests in flight at Stop
  std::chrono::milliseconds tick{500};
};

// Totals since the start; read while they change, so they need not agree with each other to the
// last one.
struct HttpStats {
  uint64_t requests = 0;       // answered, by a handler or by a refusal
  uint64_t client_errors = 0;  // of these, 4xx
  uint64_t server_errors = 0;  // of these, 5xx
  uint64_t timeouts = 0;       // slow requests and slow readers; not idle connections
  uint64_t streams_aborted = 0;
  uint64_t sent_bytes = 0;
  uint64_t connections_accepted = 0;
  uint64_t connections_refused = 0;  // by connections_max
  uint64_t connections_open = 0;
};

// Listens from Start to Stop. Thread-safe. Owns its threads, its connections and the handler; what
// the handler refers to must outlive it.
class HttpServer {
 public:
  // Errors: kConflict where the port is in use; kInvalid for a host that is no address of this
  // machine or a port that may not be used; kUnavailable for what else the system refuses.
  static Result<std::unique_ptr<HttpServer>> Start(HttpOptions options, Handler handler);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  uint16_t port() const;
  // Stops accepting, gives the requests in flight stop_timeout to finish, cuts the rest and joins
  // the threads. A handler that does not return holds it up. Not to be called from a handler. A
  // second call does nothing.
  void Stop();
  HttpStats stats() const;

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace leat::gateway
