// Log lines of the program itself (not the event log). Thread-safe. No secret belongs in a message.
#pragma once

#include <string_view>

namespace leat::core {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// Lines go to standard error; below `minimum` they are dropped.
void InitLog(LogLevel minimum);
void Log(LogLevel level, std::string_view component, std::string_view message);

inline void LogInfo(std::string_view component, std::string_view message) {
  Log(LogLevel::kInfo, component, message);
}
inline void LogWarning(std::string_view component, std::string_view message) {
  Log(LogLevel::kWarning, component, message);
}
inline void LogError(std::string_view component, std::string_view message) {
  Log(LogLevel::kError, component, message);
}

}  // namespace leat::core
