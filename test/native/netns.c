/* Network namespaces for tests: this thread, and the processes it starts, move to a new one and back. */
#define _GNU_SOURCE
#define NAPI_VERSION 8
#include <errno.h>
#include <fcntl.h>
#include <node_api.h>
#include <sched.h>
#include <unistd.h>

static napi_value result(napi_env env, int value) {
  napi_value number;
  napi_create_int32(env, value, &number);
  return number;
}

/* enter(): a descriptor of the namespace that was left, or -errno */
static napi_value enter(napi_env env, napi_callback_info info) {
  (void)info;
  int old = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  if (old < 0) return result(env, -errno);
  if (unshare(CLONE_NEWNET) == 0) return result(env, old);
  int error = errno;
  close(old);
  return result(env, -error);
}

/* leave(descriptor): 0 or -errno */
static napi_value leave(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  int32_t old = -1;
  napi_get_cb_info(env, info, &count, &argument, NULL, NULL);
  napi_get_value_int32(env, argument, &old);
  int error = setns(old, CLONE_NEWNET) == 0 ? 0 : -errno;
  close(old);
  return result(env, error);
}

NAPI_MODULE_INIT() {
  napi_value function;
  napi_create_function(env, "enter", NAPI_AUTO_LENGTH, enter, NULL, &function);
  napi_set_named_property(env, exports, "enter", function);
  napi_create_function(env, "leave", NAPI_AUTO_LENGTH, leave, NULL, &function);
  napi_set_named_property(env, exports, "leave", function);
  return exports;
}
