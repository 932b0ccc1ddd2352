// The server and the client of gateway/, each against real sockets: the client against the server,
// and the server against raw sockets that do what no well-behaved client does.
#include "gateway/http_server.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "gateway/http_client.h"

namespace leat::gateway {
namespace {

using namespace std::chrono_literals;
using Streamed = HttpResponse::Streamed;

// Far above what any step takes, so that a hang becomes a failure.
constexpr auto kPatience = 20s;
constexpr std::string_view kHostLine = "Host: test\r\n";

int OpenSocket() {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  REQUIRE(fd >= 0);
  const timeval patience{.tv_sec = std::chrono::seconds(kPatience).count(), .tv_usec = 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  return fd;
}

sockaddr_in Loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

struct RawReply {
  int status = 0;
  std::string head;  // with the empty line
  std::string body;  // of a chunked answer: as sent

  bool Has(std::string_view line) const {
    return head.find("\r\n" + std::string(line) + "\r\n") != std::string::npos;
  }
};

// One connection of a client that sends whatever it is told.
class RawClient {
 public:
  explicit RawClient(uint16_t port, int receive_buffer_bytes = 0) : fd_(OpenSocket()) {
    if (receive_buffer_bytes > 0) {
      ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof receive_buffer_bytes);
    }
    const sockaddr_in address = Loopback(port);
    REQUIRE(::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  }
  explicit RawClient(std::pair<int, std::nullptr_t> accepted) : fd_(accepted.first) {}
  ~RawClient() { ::close(fd_); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  // False when the server has gone.
  bool Send(std::string_view text) {
    while (!text.empty()) {
      const ssize_t size = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
      if (size <= 0) return false;
      text.remove_prefix(static_cast<size_t>(size));
    }
    return true;
  }
  bool Get(std::string_view target) {
    return Send("GET " + std::string(target) + " HTTP/1.1\r\n" + std::string(kHostLine) + "\r\n");
  }
  void EndSending() { ::shutdown(fd_, SHUT_WR); }

  // Up to and with `end`.
  std::string ReadUntil(std::string_view end) {
    size_t at;
    while ((at = buffer_.find(end)) == std::string::npos) {
      if (!ReadSome()) {
        FAIL("the connection ended after: ", buffer_);
      }
    }
    return Take(at + end.size());
  }
  std::string ReadExactly(size_t size) {
    while (buffer_.size() < size) {
      if (!ReadSome()) {
        FAIL("the connection ended after ", buffer_.size(), " of ", size, " bytes");
      }
    }
    return Take(size);
  }
  // What comes until the server closes; `*reset` where it did not close in order.
  std::string ReadToEnd(bool* reset = nullptr) {
    while (ReadSome()) {
    }
    const int reason = errno;
    CHECK(reason != EAGAIN);
    if (reset != nullptr) *reset = reason == ECONNRESET;
    return Take(buffer_.size());
  }
  RawReply ReadHead() {
    RawReply reply;
    reply.head = ReadUntil("\r\n\r\n");
    REQUIRE(reply.head.starts_with("HTTP/1.1 "));
    reply.status = std::atoi(reply.head.c_str() + 9);
    return reply;
  }
  RawReply Read() {
    RawReply reply = ReadHead();
    constexpr std::string_view kLength = "\r\nContent-Length: ";
    if (const size_t at = reply.head.find(kLength); at != std::string::npos) {
      reply.body =
          ReadExactly(static_cast<size_t>(std::atoll(reply.head.c_str() + at + kLength.size())));
    } else if (reply.Has("Transfer-Encoding: chunked")) {
      reply.body = ReadUntil("\r\n0\r\n\r\n");
    }
    return reply;
  }
  // Whether the server closes in order and sends nothing more.
  bool Closed() {
    bool reset = false;
    return ReadToEnd(&reset).empty() && !reset;
  }

 private:
  // False at the end or on an error; then errno tells them apart (0: the end).
  bool ReadSome() {
    char bytes[16 * 1024];
    const ssize_t size = ::recv(fd_, bytes, sizeof bytes, 0);
    if (size <= 0) {
      if (size == 0) errno = 0;
      return false;
    }
    buffer_.append(bytes, static_cast<size_t>(size));
    return true;
  }
  std::string Take(size_t size) {
    std::string taken = buffer_.substr(0, size);
    buffer_.erase(0, size);
    return taken;
  }

  const int fd_;
  std::string buffer_;
};

// Opens once, for any number of waiters.
class Gate {
 public:
  void Open() { promise_.set_value(); }
  void Await() const { REQUIRE(future_.wait_for(kPatience) == std::future_status::ready); }

 private:
  std::promise<void> promise_;
  std::shared_future<void> future_ = promise_.get_future().share();
};

HttpOptions TestOptions() {
  HttpOptions options;
  options.port = 0;
  options.tick = 5ms;
  return options;
}

std::unique_ptr<HttpServer> StartServer(HttpOptions options, Handler handler) {
  auto server = HttpServer::Start(std::move(options), std::move(handler));
  REQUIRE_MESSAGE(server, (server ? "" : server.error().Text()));
  return std::move(*server);
}

// Says what it was asked.
void Echo(const HttpRequest& request, HttpResponse& response) {
  response.SetContentType("text/plain");
  response.body().append(request.method).append(" ").append(request.path).append("?");
  response.body().append(request.query).append("|").append(request.body);
}

bool IsProblem(const RawReply& reply, int status) {
  return reply.status == status && reply.Has("Content-Type: application/problem+json") &&
         reply.body.starts_with("{\"type\":\"about:blank\",\"title\":\"") &&
         reply.body.find("\"status\":" + std::to_string(status) + ",\"detail\":\"") !=
             std::string::npos;
}

// A refusal ends the connection, and says so.
void CheckRefused(RawClient* client, int status) {
  const RawReply reply = client->Read();
  CHECK_MESSAGE(IsProblem(reply, status), "expected ", status, ", got ", reply.head, reply.body);
  CHECK(reply.Has("Connection: close"));
  CHECK(client->Closed());
}

std::string Chunk(std::string_view text) {
  char size[20];
  std::snprintf(size, sizeof size, "%zx\r\n", text.size());
  return size + std::string(text) + "\r\n";
}

TEST_CASE("http: a connection is kept alive and the handler sees the request") {
  std::atomic<int> requests = 0;
  const auto server =
      StartServer(TestOptions(), [&](const HttpRequest& request, HttpResponse& response) {
        ++requests;
        CHECK(request.loopback);
        CHECK(request.peer == "127.0.0.1");
        CHECK(request.accept == "text/html");
        CHECK(request.authorization == "Bearer abc");
        CHECK(request.Header("x-extra") == "one two");
        CHECK(request.Header("X-Empty").empty());
        CHECK(request.Header("missing").empty());
        response.AddHeader("X-Answer", std::to_string(requests));
        Echo(request, response);
      });
  RawClient client(server->port());
  for (int i = 1; i <= 3; ++i) {
    client.Send(
        "GET /a%20b/c?d=e&f HTTP/1.1\r\nhost: x\r\nAccept: text/html\r\nX-Extra:  one two \r\n"
        "X-Empty:\r\nAuthorization: Bearer abc\r\n\r\n");
    const RawReply reply = client.Read();
    CHECK(reply.status == 200);
    CHECK(reply.Has("Content-Type: text/plain"));
    CHECK(reply.Has("X-Answer: " + std::to_string(i)));
    CHECK(reply.head.find("Connection:") == std::string::npos);
    CHECK(reply.body == "GET /a%20b/c?d=e&f|");
  }
  client.EndSending();
  CHECK(client.Closed());
  CHECK(server->stats().requests == 3);
  CHECK(server->stats().connections_accepted == 1);
}

TEST_CASE("http: a target may be a whole URI, and an empty line may come first") {
  const auto server = StartServer(TestOptions(), Echo);
  RawClient client(server->port());
  client.Send("\r\nGET http://test/x?y HTTP/1.1\r\nHost: test\r\n\r\n");
  CHECK(client.Read().body == "GET /x?y|");
  client.Send("GET http://test HTTP/1.1\r\nHost: test\r\n\r\n");
  CHECK(client.Read().body == "GET /?|");
}

TEST_CASE("http: HTTP/1.0 and Connection: close") {
  const auto server = StartServer(TestOptions(), Echo);
  {
    RawClient client(server->port());
    client.Send("GET /1 HTTP/1.0\r\n\r\n");
    CHECK(client.Read().Has("Connection: close"));
    CHECK(client.Closed());
  }
  {
    RawClient client(server->port());
    client.Send("GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    CHECK(client.Read().Has("Connection: keep-alive"));
    client.Send("GET /2 HTTP/1.0\r\n\r\n");
    CHECK(client.Read().body == "GET /2?|");
    CHECK(client.Closed());
  }
  {
    RawClient client(server->port());
    // What follows a request that closes is not answered, and does not lose the answer either.
    client.Send("GET /1 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\nGET /2 HTTP/1.1\r\n");
    const RawReply reply = client.Read();
    CHECK(reply.body == "GET /1?|");
    CHECK(reply.Has("Connection: close"));
    CHECK(client.Closed());
  }
}

TEST_CASE("http: pipelined requests are answered in order while one of them blocks") {
  constexpr int kDepth = 16;
  constexpr int kBlocking = 5;
  Gate gate;
  HttpOptions options = TestOptions();
  options.is_blocking = [](std::string_view, std::string_view path) { return path == "/5"; };
  const auto server = StartServer(options, [&](const HttpRequest& request, HttpResponse& response) {
    if (request.path == "/5") gate.Await();
    Echo(request, response);
  });
  RawClient client(server->port());
  std::string requests;
  for (int i = 0; i < kDepth; ++i) {
    requests += "POST /" + std::to_string(i) + " HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n" +
                std::to_string(10 + i);
  }
  client.Send(requests);
  for (int i = 0; i < kDepth; ++i) {
    if (i == kBlocking) gate.Open();  // the answers before it have come by now
    CHECK(client.Read().body == "POST /" + std::to_string(i) + "?|" + std::to_string(10 + i));
  }
  // Meanwhile the io thread is free: another connection is served while one blocks.
  Gate second;
  const auto busy = StartServer(options, [&](const HttpRequest& request, HttpResponse& response) {
    if (request.path == "/5") second.Await();
    Echo(request, response);
  });
  RawClient blocked(busy->port());
  RawClient free(busy->port());
  blocked.Get("/5");
  free.Get("/6");
  CHECK(free.Read().body == "GET /6?|");
  second.Open();
  CHECK(blocked.Read().body == "GET /5?|");
}

TEST_CASE("http: what somebody else answers holds no thread") {
  constexpr size_t kClients = 8;  // more than there are threads
  bool blocks = true;
  SUBCASE("of the pool") {}
  SUBCASE("of connections") { blocks = false; }
  HttpOptions options = TestOptions();
  options.blocking_threads = 1;
  options.is_blocking = [=](std::string_view, std::string_view) { return blocks; };
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::function<void()>> waiting;
  const auto server = StartServer(options, [&](const HttpRequest& request, HttpResponse& response) {
    if (request.path == "/now") return Echo(request, response);
    response.Defer([&, path = std::string(request.path),
                    answer = &response](const std::function<void()>& answered) {
      if (path == "/at-once") {
        answer->body() += "at once";
        return answered();
      }
      std::lock_guard lock(mutex);
      waiting.push_back([=] {
        if (path == "/7") answer->SetProblem(503, "no answer");
        else answer->body() += "later " + path;
        answered();
      });
      changed.notify_one();
    });
  });
  std::vector<std::unique_ptr<RawClient>> clients;
  for (size_t i = 0; i < kClients; ++i) {
    clients.push_back(std::make_unique<RawClient>(server->port()));
    clients.back()->Get("/" + std::to_string(i));
  }
  {
    std::unique_lock lock(mutex);
    REQUIRE(changed.wait_for(lock, kPatience, [&] { return waiting.size() == kClients; }));
  }
  RawClient other(server->port());
  other.Get("/now");
  CHECK(other.Read().body == "GET /now?|");
  other.Get("/at-once");
  CHECK(other.Read().body == "at once");
  auto stopped = std::async(std::launch::async, [&] { server->Stop(); });
  CHECK(other.Closed());  // so it is stopping, and waits
  CHECK(stopped.wait_for(0s) == std::future_status::timeout);
  for (const auto& answer : waiting) answer();
  for (size_t i = 0; i < kClients; ++i) {
    const RawReply reply = clients[i]->Read();
    if (i == 7) CHECK(IsProblem(reply, 503));
    else CHECK(reply.body == "later /" + std::to_string(i));
    clients[i]->EndSending();
  }
  CHECK(stopped.wait_for(kPatience) == std::future_status::ready);
}

TEST_CASE("http: many pipelined requests with large answers do not pile up") {
  const std::string large(100'000, 'x');
  const auto server =
      StartServer(TestOptions(), [&](const HttpRequest& request, HttpResponse& response) {
        response.body().append(request.path).append(large);
      });
  RawClient client(server->port(), 16 * 1024);
  std::string requests;
  for (int i = 0; i < 50; ++i) {
    requests += "GET /" + std::to_string(i) + " HTTP/1.1\r\nHost: x\r\n\r\n";
  }
  client.Send(requests);
  for (int i = 0; i < 50; ++i) CHECK(client.Read().body == "/" + std::to_string(i) + large);
}

TEST_CASE("http: a request may come byte by byte, with a chunked body and a trailer") {
  HttpOptions options = TestOptions();
  options.is_blocking = [](std::string_view, std::string_view path) { return path == "/pool"; };
  const auto server = StartServer(options, [](const HttpRequest& request, HttpResponse& response) {
    CHECK(request.authorization == "Bearer head");
    CHECK(request.content_type == "text/plain");
    Echo(request, response);
  });
  for (const std::string path : {"/inline", "/pool"}) {
    RawClient client(server->port());
    const std::string request = "PUT " + path +
                                " HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n"
                                "Authorization: Bearer head\r\nContent-Type: text/plain\r\n\r\n" +
                                Chunk("first,") + "6;ext=1\r\nsecond\r\n" +
                                "0\r\nAuthorization: Bearer trailer\r\n\r\n";
    for (const char c : request) client.Send({&c, 1});
    CHECK(client.Read().body == "PUT " + path + "?|first,second");
    client.Send(request + request);
    CHECK(client.Read().body == "PUT " + path + "?|first,second");
    CHECK(client.Read().body == "PUT " + path + "?|first,second");
  }
}

TEST_CASE("http: a HEAD gets the head of the answer") {
  const auto server =
      StartServer(TestOptions(), [](const HttpRequest& request, HttpResponse& response) {
        if (request.path == "/none") return response.SetStatus(204);
        if (request.path == "/stream") {
          return response.SetStream([](std::string*) -> Result<Streamed> { return Streamed::kEnd; });
        }
        Echo(request, response);
      });
  RawClient client(server->port());
  client.Send("HEAD /abc HTTP/1.1\r\nHost: x\r\n\r\nHEAD /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  client.Get("/none");
  client.Get("/last");
  CHECK(client.ReadHead().Has("Content-Length: 11"));
  CHECK(client.ReadHead().Has("Transfer-Encoding: chunked"));
  const RawReply none = client.ReadHead();
  CHECK(none.status == 204);
  CHECK(none.head == "HTTP/1.1 204 No Content\r\n\r\n");
  CHECK(client.Read().body == "GET /last?|");
}

TEST_CASE("http: too large a head, URI or body is refused") {
  HttpOptions options = TestOptions();
  options.header_bytes_max = 9'000;
  options.body_bytes_max_for = [](std::string_view method, std::string_view path) -> size_t {
    return method == "POST" && path == "/large" ? 4 << 20 : 1000;
  };
  const auto server = StartServer(options, Echo);
  const auto refused = [&](std::string_view request, int status) {
    RawClient client(server->port());
    client.Send(request);
    CheckRefused(&client, status);
  };
  const std::string start = "POST /x HTTP/1.1\r\n" + std::string(kHostLine);
  refused(start + "X: " + std::string(9'000, 'x') + "\r\n\r\n", 431);
  refused(start + "X: " + std::string(9'000, 'x'), 431);      // and never ends
  refused(start + "X: " + std::string(2'000'000, 'x'), 431);  // is read to its end, then dropped
  refused("GET /" + std::string(20'000, 'x'), 414);
  refused("GET /" + std::string(8'500, 'x') + " HTTP/1.1\r\nHost: x\r\n\r\n", 414);
  refused(start + "Content-Length: 1001\r\n\r\n", 413);  // before the body
  refused(start + "Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n", 413);
  refused(start + "Transfer-Encoding: chunked\r\n\r\n" + Chunk(std::string(600, 'a')) +
              Chunk(std::string(600, 'b')),
          413);
  refused(start + "Transfer-Encoding: chunked\r\n\r\n1;" + std::string(9'000, 'x'), 400);

  RawClient client(server->port());
  client.Send("GET /fits HTTP/1.1\r\n" + std::string(kHostLine) + "X: " + std::string(8'000, 'x') +
              "\r\n\r\n");
  CHECK(client.Read().body == "GET /fits?|");
  client.Send(start + "Content-Length: 1000\r\n\r\n" + std::string(1000, 'b'));
  CHECK(client.Read().body == "POST /x?|" + std::string(1000, 'b'));

  HttpClient command_line("localhost", server->port(), kPatience);
  const std::string large(4 << 20, 'L');
  for (int i = 0; i < 2; ++i) {
    const auto reply = command_line.Request("POST", "/large", large, "text/plain");
    REQUIRE(reply);
    CHECK(reply->body == "POST /large?|" + large);
  }
  CHECK(command_line.Request("POST", "/small", std::string(1001, 's'))->status == 413);
}

TEST_CASE("http: what is not HTTP/1 as it should be is refused") {
  const auto server =
      StartServer(TestOptions(), [](const HttpRequest& request, HttpResponse& response) {
        response.AddHeader("X-Mine", "1");
        Echo(request, response);
      });
  const auto refused = [&](std::string_view request, int status) {
    CAPTURE(request);
    RawClient client(server->port());
    client.Send(request);
    CheckRefused(&client, status);
  };
  refused("GET /x HTTP/2.0\r\nHost: x\r\n\r\n", 505);
  refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505);
  refused("GET /x HTTP/0.9\r\n\r\n", 505);
  refused("GET /x HTTPS\r\n\r\n", 400);
  refused("GET /x\r\n\r\n", 400);
  refused("nonsense\r\n\r\n", 400);
  refused(std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11), 400);
  refused("GET /x HTTP/1.1\r\n\r\n", 400);
  refused("GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400);
  refused("GET /x HTTP/1.1\r\nHost: a\r\nX: one\r\n two\r\n\r\n", 400);
  refused("GET /x HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400);
  refused("GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400);
  refused("GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400);
  refused("GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400);
  refused("GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
          400);
  refused("GET /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501);
  refused("GET /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", 501);
  refused("GET /x HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\n\r\n", 417);
  refused("GET /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400);

  // The answers before it come first, and their headers are not repeated.
  RawClient client(server->port());
  client.Send("GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/3.0\r\n\r\n");
  CHECK(client.Read().Has("X-Mine: 1"));
  const RawReply reply = client.Read();
  CHECK(IsProblem(reply, 505));
  CHECK_FALSE(reply.Has("X-Mine: 1"));
  CHECK(client.Closed());
}

TEST_CASE("http: Expect: 100-continue is answered when the body has not come yet") {
  const auto server = StartServer(TestOptions(), Echo);
  const std::string head =
      "POST /x HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
  RawClient client(server->port());
  client.Get("/before");
  client.Send(head);
  CHECK(client.Read().body == "GET /before?|");
  CHECK(client.ReadUntil("\r\n\r\n") == "HTTP/1.1 100 Continue\r\n\r\n");
  client.Send("body");
  CHECK(client.Read().body == "POST /x?|body");
  client.Send(head + "body");
  CHECK(client.Read().body == "POST /x?|body");
}

TEST_CASE("http: slow clients get a 408, idle ones are let go") {
  HttpOptions options = TestOptions();
  options.header_timeout = 50ms;
  options.body_timeout = 50ms;
  options.idle_timeout = 1000ms;
  const auto server = StartServer(options, Echo);
  {
    RawClient client(server->port());
    client.Send("GET /slow HTTP/1.1\r\nHos");
    CheckRefused(&client, 408);
  }
  {
    RawClient client(server->port());
    client.Send("POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n1234");
    CheckRefused(&client, 408);
  }
  CHECK(server->stats().timeouts == 2);
  {
    RawClient client(server->port());
    CHECK(client.Closed());
  }
  {
    RawClient client(server->port());
    client.Get("/1");
    CHECK(client.Read().status == 200);
    CHECK(client.Closed());
  }
  CHECK(server->stats().timeouts == 2);
}

TEST_CASE("http: a client that takes nothing is let go") {
  HttpOptions options = TestOptions();
  options.write_timeout = 100ms;
  std::promise<void> gone;
  auto guard = std::shared_ptr<void>(nullptr, [&](void*) { gone.set_value(); });
  const auto server = StartServer(options, [&](const HttpRequest&, HttpResponse& response) {
    response.SetStream([kept = std::move(guard)](std::string* chunk) -> Result<Streamed> {
      chunk->append(kStreamChunkBytes, 'x');
      return Streamed::kMore;
    });
  });
  RawClient client(server->port());
  client.Get("/endless");
  CHECK(gone.get_future().wait_for(kPatience) == std::future_status::ready);
  CHECK(server->stats().timeouts == 1);
}

TEST_CASE("http: a client that has closed its side still gets its answer") {
  Gate gate;
  HttpOptions options = TestOptions();
  options.is_blocking = [](std::string_view, std::string_view path) { return path == "/pool"; };
  const auto server = StartServer(options, [&](const HttpRequest& request, HttpResponse& response) {
    if (request.path == "/pool") gate.Await();
    Echo(request, response);
  });
  {
    RawClient client(server->port());
    client.Get("/1");
    client.Get("/2");
    client.EndSending();
    CHECK(client.Read().body == "GET /1?|");
    CHECK(client.Read().body == "GET /2?|");
    CHECK(client.Closed());
  }
  {
    RawClient client(server->port());
    client.Get("/pool");
    client.EndSending();
    gate.Open();
    CHECK(client.Read().body == "GET /pool?|");
    CHECK(client.Closed());
  }
  {
    RawClient client(server->port());
    client.Send("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf");
    client.EndSending();
    CheckRefused(&client, 400);
  }
}

// "0\n1\n...": `count` pieces of it, and nothing now and then.
HttpResponse::Stream Numbers(int count, size_t padding) {
  return [=, next = 0, paused = false](std::string* chunk) mutable -> Result<Streamed> {
    if (next == count / 2 && !std::exchange(paused, true)) return Streamed::kCaughtUp;
    *chunk += std::to_string(next) + std::string(padding, ' ') + "\n";
    return ++next < count ? Streamed::kMore : Streamed::kEnd;
  };
}

std::string AllNumbers(int count, size_t padding) {
  std::string all;
  for (int i = 0; i < count; ++i) all += std::to_string(i) + std::string(padding, ' ') + "\n";
  return all;
}

TEST_CASE("http: a streamed answer comes in chunks") {
  constexpr int kCount = 300;
  constexpr size_t kPadding = 40'000;
  HttpOptions options = TestOptions();
  options.is_blocking = [](std::string_view, std::string_view path) { return path == "/pool"; };
  const auto server = StartServer(options, [](const HttpRequest& request, HttpResponse& response) {
    if (request.path == "/empty") {
      return response.SetStream([](std::string*) -> Result<Streamed> { return Streamed::kEnd; });
    }
    response.SetContentType("text/plain");
    if (request.path == "/small") return response.SetStream(Numbers(3, 0));
    response.SetStream(Numbers(kCount, kPadding));
  });
  RawClient raw(server->port());
  raw.Get("/small");
  raw.Get("/empty");
  raw.Get("/small");
  CHECK(raw.Read().body == Chunk("0\n") + Chunk("1\n") + Chunk("2\n") + "0\r\n\r\n");
  CHECK(raw.ReadHead().Has("Transfer-Encoding: chunked"));
  CHECK(raw.ReadExactly(5) == "0\r\n\r\n");
  CHECK(raw.Read().body == Chunk("0\n") + Chunk("1\n") + Chunk("2\n") + "0\r\n\r\n");

  const std::string expected = AllNumbers(kCount, kPadding);
  HttpClient client("127.0.0.1", server->port(), kPatience);
  for (const std::string_view path : {"/inline", "/pool"}) {
    std::string got;
    const auto status = client.Stream("GET", path, [&](std::string_view chunk) {
      got += chunk;
      return true;
    });
    CHECK(status);
    CHECK(got == expected);
    CHECK(client.Request("GET", path)->body == expected);
  }
  CHECK(server->stats().connections_accepted == 2);  // `raw` and one for `client`
  // Enough is enough: the rest is not read, and the next request works.
  int pieces = 0;
  CHECK(client.Stream("GET", "/inline", [&](std::string_view) { return ++pieces < 2; }));
  CHECK(pieces == 2);
  CHECK(client.Request("GET", "/small")->body == "0\n1\n2\n");

  RawClient old(server->port());
  old.Send("GET /small HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  const RawReply head = old.ReadHead();
  CHECK(head.Has("Connection: close"));
  CHECK_FALSE(head.Has("Transfer-Encoding: chunked"));
  bool reset = true;
  CHECK(old.ReadToEnd(&reset) == "0\n1\n2\n");
  CHECK_FALSE(reset);
}

TEST_CASE("http: a stream that waits holds up nobody else") {
  auto options = TestOptions();
  options.threads = 1;
  Gate gate;
  const auto server = StartServer(options, [&](const HttpRequest& request, HttpResponse& response) {
    if (request.path != "/waits") return response.SetContentType("text/plain");
    response.SetStream([&](std::string* chunk) -> Result<Streamed> {
      gate.Await();
      *chunk = "at last";
      return Streamed::kEnd;
    });
  });
  RawClient waits(server->port()), other(server->port());
  waits.Get("/waits");
  // Its head comes before there is anything to give.
  CHECK(waits.ReadHead().Has("Transfer-Encoding: chunked"));
  other.Get("/other");
  CHECK(other.Read().status == 200);
  gate.Open();
  const std::string rest = Chunk("at last") + "0\r\n\r\n";
  CHECK(waits.ReadExactly(rest.size()) == rest);
}

TEST_CASE("http: a stream that fails cuts the connection before the end of the body") {
  const auto server =
      StartServer(TestOptions(), [](const HttpRequest& request, HttpResponse& response) {
        response.SetStream([throws = request.path == "/throws",
                            calls = 0](std::string* chunk) mutable -> Result<Streamed> {
          if (++calls == 3 && throws) throw std::runtime_error("a planned exception");
          if (calls == 3) return Fail(ErrorClass::kCorrupt, "a planned error");
          *chunk += "piece";
          return Streamed::kMore;
        });
      });
  for (const std::string_view path : {"/fails", "/throws"}) {
    RawClient raw(server->port());
    raw.Get(path);
    CHECK(raw.ReadHead().status == 200);
    CHECK(raw.ReadToEnd() == Chunk("piece") + Chunk("piece"));
    HttpClient client("127.0.0.1", server->port(), kPatience);
    std::string got;
    const auto status = client.Stream("GET", path, [&](std::string_view chunk) {
      got += chunk;
      return true;
    });
    REQUIRE_FALSE(status);
    CHECK(status.error().error_class == ErrorClass::kUnavailable);
    CHECK(got == "piecepiece");
    CHECK_FALSE(client.Request("GET", path));
  }
  RawClient old(server->port());
  old.Send("GET /fails HTTP/1.0\r\n\r\n");
  bool reset = false;
  old.ReadToEnd(&reset);
  CHECK(reset);
  CHECK(server->stats().streams_aborted == 7);
}

TEST_CASE("http: a stream that has nothing yet is asked again at once, or at the next tick") {
  constexpr int kSteps = 1000;
  HttpOptions options = TestOptions();
  options.tick = 1h;  // so only what goes on at once ever ends
  const auto server = StartServer(options, [](const HttpRequest&, HttpResponse& response) {
    response.SetStream([step = 0](std::string* chunk) mutable -> Result<Streamed> {
      if (++step < kSteps) return Streamed::kMore;
      *chunk = "found";
      return Streamed::kEnd;
    });
  });
  RawClient client(server->port());
  client.Get("/");
  CHECK(client.Read().body == Chunk("found") + "0\r\n\r\n");
}

TEST_CASE("http: a quiet stream sends heartbeats, by which a client that has gone is noticed") {
  HttpOptions options = TestOptions();
  options.heartbeat = 20ms;
  const auto server = StartServer(options, [](const HttpRequest& request, HttpResponse& response) {
    response.SetStream([quiet = request.path == "/searching" ? Streamed::kMore : Streamed::kCaughtUp](
                           std::string*) -> Result<Streamed> { return quiet; },
                       "\n");
  });
  for (const std::string_view path : {"/following", "/searching"}) {
    RawClient client(server->port());
    client.Get(path);
    client.ReadHead();
    CHECK(client.ReadUntil(Chunk("\n") + Chunk("\n")) == Chunk("\n") + Chunk("\n"));
    CHECK(server->stats().connections_open >= 1);
  }
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (server->stats().connections_open > 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(1ms);
  }
  CHECK(server->stats().connections_open == 0);
}

TEST_CASE("http: a problem document is UTF-8 whatever it speaks of") {
  HttpResponse response;
  response.SetProblem(400, "\"\xff\" and a cut \xe2\x82");
  CHECK(response.body().find("\"detail\":\"\\\"\ufffd\\\" and a cut \ufffd\"}") !=
        std::string::npos);
}

TEST_CASE("http: a handler that throws becomes a 500 and the connection lives on") {
  HttpOptions options = TestOptions();
  options.is_blocking = [](std::string_view, std::string_view path) { return path == "/pool"; };
  const auto server = StartServer(options, [](const HttpRequest& request, HttpResponse& response) {
    response.AddHeader("X-Half", "done");
    if (request.path == "/int") throw 1;
    if (request.path != "/fine") throw std::runtime_error("a planned exception");
    Echo(request, response);
  });
  RawClient client(server->port());
  for (const std::string_view path : {"/inline", "/pool", "/int"}) {
    client.Get(path);
    const RawReply reply = client.Read();
    CHECK(IsProblem(reply, 500));
    CHECK_FALSE(reply.Has("X-Half: done"));
    CHECK(reply.body.find("planned") == std::string::npos);
  }
  client.Get("/fine");
  CHECK(client.Read().status == 200);
  CHECK(server->stats().server_errors == 3);
}

TEST_CASE("http: a response cannot be made to hold another line") {
  HttpResponse response;
  response.AddHeader("X-Name", "a\r\nSet-Cookie: b");
  CHECK(response.header_lines() == "X-Name: a  Set-Cookie: b\r\n");
  response.SetProblem(404, "no \"such\"\nthing \\");
  CHECK(response.status() == 404);
  CHECK(response.body() == R"({"type":"about:blank","title":"Not Found","status":404,)"
                           R"("detail":"no \"such\"\nthing \\"})");
}

TEST_CASE("http: a port in use and a foreign address are clear errors") {
  const auto server = StartServer(TestOptions(), Echo);
  HttpOptions options;
  options.port = server->port();
  const auto second = HttpServer::Start(options, Echo);
  REQUIRE_FALSE(second);
  CHECK(second.error().error_class == ErrorClass::kConflict);
  CHECK(second.error().message.find("127.0.0.1:" + std::to_string(server->port())) !=
        std::string::npos);
  CHECK(second.error().remedy.find("--port") != std::string::npos);

  for (const char* host : {"203.0.113.7", "not an address"}) {
    options.host = host;
    const auto foreign = HttpServer::Start(options, Echo);
    REQUIRE_FALSE(foreign);
    CHECK(foreign.error().error_class == ErrorClass::kInvalid);
    CHECK(foreign.error().remedy.find("--host") != std::string::npos);
  }
}

TEST_CASE("http: connections over the limit get a 503 until one has gone") {
  HttpOptions options = TestOptions();
  options.connections_max = 2;
  const auto server = StartServer(options, Echo);
  RawClient first(server->port());
  {
    RawClient second(server->port());
    for (RawClient* client : {&first, &second}) {
      client->Get("/x");
      CHECK(client->Read().status == 200);
    }
    RawClient third(server->port());
    const RawReply reply = third.Read();
    CHECK(IsProblem(reply, 503));
    CHECK(reply.Has("Retry-After: 1"));
    CHECK(third.Closed());
    CHECK(server->stats().connections_refused == 1);
    second.EndSending();
    CHECK(second.Closed());
  }
  // The server counts a connection as gone a moment after it has closed it.
  int status = 503;
  for (int tries = 0; status == 503 && tries < 1000; ++tries) {
    RawClient again(server->port());
    again.Get("/x");
    status = again.Read().status;
  }
  CHECK(status == 200);
  first.Get("/x");
  CHECK(first.Read().status == 200);
}

TEST_CASE("http: Stop lets a request in flight finish") {
  Gate entered, gate;
  HttpOptions options = TestOptions();
  options.is_blocking = [](std::string_view, std::string_view path) { return path == "/pool"; };
  const auto server = StartServer(options, [&](const HttpRequest& request, HttpResponse& response) {
    if (request.path == "/pool") {
      entered.Open();
      gate.Await();
    }
    Echo(request, response);
  });
  RawClient idle(server->port());
  idle.Get("/x");
  CHECK(idle.Read().status == 200);
  RawClient client(server->port());
  client.Get("/pool");
  entered.Await();
  auto stopped = std::async(std::launch::async, [&] { server->Stop(); });
  CHECK(idle.Closed());  // so it is stopping
  CHECK(stopped.wait_for(0s) == std::future_status::timeout);
  gate.Open();
  const RawReply reply = client.Read();
  CHECK(reply.body == "GET /pool?|");
  CHECK(reply.Has("Connection: close"));
  client.EndSending();
  CHECK(client.Closed());
  CHECK(stopped.wait_for(kPatience) == std::future_status::ready);
  CHECK(server->stats().connections_open == 0);
  server->Stop();

  HttpClient late("127.0.0.1", server->port(), kPatience);
  const auto refused = late.Request("GET", "/x");
  REQUIRE_FALSE(refused);
  CHECK(refused.error().error_class == ErrorClass::kUnavailable);
  CHECK(refused.error().message.find("127.0.0.1:" + std::to_string(server->port())) !=
        std::string::npos);
}

TEST_CASE("http: Stop cuts what takes longer than its time") {
  HttpOptions options = TestOptions();
  options.stop_timeout = 50ms;
  options.blocking_threads = 1;
  options.is_blocking = [](std::string_view, std::string_view path) { return path == "/pool"; };
  Gate entered, gate;
  std::atomic<int> worked = 0;
  auto server = StartServer(options, [&](const HttpRequest& request, HttpResponse& response) {
    if (request.path == "/pool") {
      if (++worked == 1) entered.Open();
      gate.Await();
    } else {
      const bool pauses = request.path == "/pause";
      response.SetStream([=](std::string* chunk) -> Result<Streamed> {
        if (pauses) return Streamed::kCaughtUp;
        chunk->append(1000, 'x');
        return Streamed::kMore;
      });
    }
  });
  RawClient working(server->port()), queued(server->port()), half(server->port());
  RawClient endless(server->port()), pausing(server->port());
  working.Get("/pool");
  entered.Await();
  queued.Get("/pool");
  half.Send("POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n");
  endless.Get("/endless");
  pausing.Get("/pause");
  CHECK(endless.ReadHead().status == 200);
  CHECK(pausing.ReadHead().status == 200);
  auto stopped = std::async(std::launch::async, [&] { server->Stop(); });
  CHECK(working.ReadToEnd().empty());
  CHECK(queued.ReadToEnd().empty());
  CHECK(half.ReadToEnd().empty());
  CHECK_FALSE(endless.ReadToEnd().ends_with("\r\n0\r\n\r\n"));
  CHECK_FALSE(pausing.ReadToEnd().ends_with("\r\n0\r\n\r\n"));
  gate.Open();
  CHECK(stopped.wait_for(kPatience) == std::future_status::ready);
  CHECK(worked == 1);  // what was still queued is dropped
  server.reset();
}

TEST_CASE("http: several threads serve many clients") {
  constexpr int kClients = 8;
  constexpr int kRequests = 60;
  HttpOptions options = TestOptions();
  options.threads = 3;
  options.is_blocking = [](std::string_view, std::string_view path) {
    return path.ends_with("0") || path.ends_with("7");
  };
  const auto server = StartServer(options, [](const HttpRequest& request, HttpResponse& response) {
    if (request.path.ends_with("5")) return response.SetStream(Numbers(3, 10));
    Echo(request, response);
  });
  std::atomic<int> right = 0;
  std::vector<std::thread> threads;
  for (int c = 0; c < kClients; ++c) {
    threads.emplace_back([&, c] {
      HttpClient client("127.0.0.1", server->port(), kPatience);
      for (int i = 0; i < kRequests; ++i) {
        const std::string path = "/" + std::to_string(c) + "/" + std::to_string(i);
        const auto reply = client.Request("POST", path, path);
        const std::string expected =
            path.ends_with("5") ? AllNumbers(3, 10) : "POST " + path + "?|" + path;
        if (reply && reply->body == expected) ++right;
        server->stats();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(right == kClients * kRequests);
  CHECK(server->stats().requests == kClients * kRequests);
  CHECK(server->stats().connections_accepted == kClients);
}

TEST_CASE("http client: statuses, tokens and what cannot be sent") {
  const auto server =
      StartServer(TestOptions(), [](const HttpRequest& request, HttpResponse& response) {
        if (request.path == "/token") {
          response.body().append(request.authorization).append(request.content_type);
        } else {
          response.SetProblem(request.path == "/busy" ? 503 : 404, "not that");
        }
      });
  HttpClient client("127.0.0.1", server->port(), kPatience);
  const auto reply = client.Request("GET", "/token", "", "", "secret");
  REQUIRE(reply);
  CHECK(reply->status == 200);
  CHECK(reply->content_type == "application/json");
  CHECK(reply->body == "Bearer secret");
  CHECK(client.Request("POST", "/token", "{}", "text/x")->body == "text/x");
  const auto head = client.Request("HEAD", "/token");
  REQUIRE(head);
  CHECK(head->body.empty());
  CHECK(client.Request("GET", "/none")->status == 404);

  const auto take = [](std::string_view) { return true; };
  const auto missing = client.Stream("GET", "/none", take);
  REQUIRE(missing);
  CHECK(missing->status == 404);
  CHECK(missing->body.find("not that") != std::string::npos);
  CHECK(client.Stream("GET", "/busy", take)->status == 503);

  for (const std::string_view target : {"x", "/a b", "/a\r\nX: y", ""}) {
    CHECK(client.Request("GET", target).error().error_class == ErrorClass::kInvalid);
  }
  CHECK(client.Request("GET", "/", "", "", "a\nb").error().error_class == ErrorClass::kInvalid);
  CHECK(client.Request("G T", "/").error().error_class == ErrorClass::kInvalid);
  CHECK(server->stats().connections_accepted == 1);
}

TEST_CASE("http client: a connection the server has closed is opened anew") {
  HttpOptions options = TestOptions();
  auto server = StartServer(options, Echo);
  options.port = server->port();
  HttpClient client("127.0.0.1", options.port, kPatience);
  CHECK(client.Request("GET", "/1"));
  server.reset();
  server = StartServer(options, Echo);
  // The client sees that it was closed before it sends anything, so this is safe for a POST too.
  CHECK(client.Request("POST", "/2")->body == "POST /2?|");
}

// A server that answers each connection's first request and closes at the second, unanswered.
TEST_CASE("http client: only GET and HEAD are repeated") {
  const int listener = OpenSocket();
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof address;
  REQUIRE(::bind(listener, reinterpret_cast<sockaddr*>(&address), size) == 0);
  REQUIRE(::listen(listener, 8) == 0);
  REQUIRE(::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  constexpr int kConnections = 2;
  std::atomic<int> seen = 0;
  std::thread fake([&] {
    for (int i = 0; i < kConnections; ++i) {
      RawClient peer(std::pair(::accept(listener, nullptr, nullptr), nullptr));
      peer.ReadUntil("\r\n\r\n");
      ++seen;
      peer.Send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
      peer.ReadUntil("\r\n\r\n");
      ++seen;
    }
  });
  HttpClient client("127.0.0.1", ntohs(address.sin_port), kPatience);
  CHECK(client.Request("GET", "/1")->body == "ok");
  CHECK(client.Request("GET", "/2")->body == "ok");  // sent twice, the second time anew
  const auto reply = client.Request("POST", "/3");
  REQUIRE_FALSE(reply);
  CHECK(reply.error().error_class == ErrorClass::kUnavailable);
  CHECK(reply.error().remedy.find("may have carried") != std::string::npos);
  fake.join();
  CHECK(seen == 4);
  ::close(listener);
}

TEST_CASE("http client: a server that says nothing is given up on") {
  Gate gate;
  HttpOptions options = TestOptions();
  options.is_blocking = [](std::string_view, std::string_view) { return true; };
  const auto server =
      StartServer(options, [&](const HttpRequest&, HttpResponse&) { gate.Await(); });
  HttpClient client("127.0.0.1", server->port(), 50ms);
  const auto reply = client.Request("GET", "/x");
  REQUIRE_FALSE(reply);
  CHECK(reply.error().error_class == ErrorClass::kUnavailable);
  CHECK(reply.error().message.find("50 ms") != std::string::npos);
  HttpClient patient("127.0.0.1", server->port(), HttpClient::kNoTimeout);
  auto late = std::async(std::launch::async, [&] { return patient.Request("GET", "/x"); });
  CHECK(late.wait_for(200ms) == std::future_status::timeout);
  gate.Open();
  CHECK(late.get());
}

}  // namespace
}  // namespace leat::gateway
