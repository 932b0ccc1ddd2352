#include "tests/conformance/member_process.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sstream>

namespace leat::conformance {

MemberProcess::MemberProcess(const std::vector<std::string>& arguments) {
  int in[2], out[2];
  REQUIRE(pipe2(in, O_CLOEXEC) == 0);
  REQUIRE(pipe2(out, O_CLOEXEC) == 0);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
  std::vector<std::string> words = arguments;
  words.insert(words.begin(), LEAT_GROUP_MEMBER);
  std::vector<char*> raw;
  for (auto& word : words) raw.push_back(word.data());
  raw.push_back(nullptr);
  const int spawned = posix_spawn(&pid_, LEAT_GROUP_MEMBER, &actions, nullptr, raw.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(in[0]);
  close(out[1]);
  in_ = in[1];
  out_ = out[0];
  REQUIRE(spawned == 0);
}

MemberProcess::~MemberProcess() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    Await();
  }
  if (in_ >= 0) close(in_);
  close(out_);
}

void MemberProcess::Await() {
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

void MemberProcess::Signal(int signal) {
  REQUIRE(pid_ > 0);
  REQUIRE(kill(pid_, signal) == 0);
  if (signal == SIGKILL) Await();
}

void MemberProcess::Leave() {
  REQUIRE(pid_ > 0);
  close(in_);
  in_ = -1;
  Await();
}

void MemberProcess::Read() {
  for (;;) {
    pollfd ready{out_, POLLIN, 0};
    char bytes[4096];
    if (poll(&ready, 1, 0) <= 0) break;
    const ssize_t got = read(out_, bytes, sizeof bytes);
    if (got <= 0) break;
    unread_.append(bytes, static_cast<size_t>(got));
  }
  for (size_t end; (end = unread_.find('\n')) != std::string::npos;) {
    const std::string line = unread_.substr(0, end);
    unread_.erase(0, end + 1);
    if (line.starts_with("error ")) {
      error_ = line;
      held_.clear();
      continue;
    }
    const size_t begin = std::string("share ").size();
    const size_t release = line.find(" release ");
    REQUIRE(line.starts_with("share "));
    REQUIRE(release != std::string::npos);
    held_.clear();
    std::istringstream list(line.substr(begin, release - begin));
    for (std::string one; std::getline(list, one, ',');) {
      held_.insert(static_cast<uint32_t>(std::stoul(one)));
    }
    // It releases these at once.
    std::istringstream released(line.substr(release + std::string(" release ").size()));
    for (std::string one; std::getline(released, one, ',');) {
      held_.erase(static_cast<uint32_t>(std::stoul(one)));
    }
  }
}

const std::set<uint32_t>& MemberProcess::held() {
  Read();
  return held_;
}

const std::string& MemberProcess::error() {
  Read();
  return error_;
}

}  // namespace leat::conformance
