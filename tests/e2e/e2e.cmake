# Drives the binary from outside: no product code here.
add_test(NAME e2e
  COMMAND python3 ${CMAKE_CURRENT_SOURCE_DIR}/e2e/e2e.py --leat $<TARGET_FILE:leat>
    --sample ${CMAKE_SOURCE_DIR}/deploy/sample)
set_tests_properties(e2e PROPERTIES LABELS e2e TIMEOUT 1200)
