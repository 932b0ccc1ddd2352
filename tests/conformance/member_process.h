// A group_member as a child of the test. It ends with its object.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <csignal>
#include <set>
#include <string>
#include <vector>

namespace leat::conformance {

class MemberProcess {
 public:
  // `arguments` are those of group_member.cc.
  explicit MemberProcess(const std::vector<std::string>& arguments);
  ~MemberProcess();
  MemberProcess(const MemberProcess&) = delete;
  MemberProcess& operator=(const MemberProcess&) = delete;

  // SIGSTOP, SIGCONT; SIGKILL waits for its end.
  void Signal(int signal);
  // In order.
  void Leave();
  // What it holds now, as it told.
  const std::set<uint32_t>& held();
  // Its last line "error ...", else empty.
  const std::string& error();

 private:
  void Read();
  void Await();

  pid_t pid_ = -1;
  int in_ = -1;   // its standard input
  int out_ = -1;  // its standard output
  std::string unread_;
  std::set<uint32_t> held_;
  std::string error_;
};

}  // namespace leat::conformance
