/*
 * The system calls that Node lacks: netlink sockets, raw ones for pings and ARP, and one unix datagram for sd_notify(3).
 * The data path of the udp backend, in udp_*.c, is part of the same addon.
 *
 * It is thin on purpose. src/native.ts checks every argument before it gets here; a function here makes its
 * call and returns the result, or a negative errno. What a message means is TypeScript's business.
 *
 * Who owns what: a socket lives until both its JavaScript handle and its poll handle have let go of it
 * (`owners`). While it is watched, it holds its JavaScript handle, so that a watched socket cannot be
 * collected. The descriptor itself is closed by whichever comes first: close(), the collector, or the end of
 * the environment (process exit, worker.terminate()).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <inttypes.h>
#include <limits.h>
#include <malloc.h>
#include <sys/mman.h>
#include "addon.h"
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

#ifdef DEBUG
#include <assert.h>
#define CHECK(condition) assert(condition)
#else
#define CHECK(condition) ((void)(condition))
#endif

#define MAX_INSTRUCTIONS 64

typedef struct {
  napi_env env;
  int fd; /* -1 once closed */
  int family;
  int owners;
  bool watched;
  uv_poll_t poll;
  napi_ref handle; /* strong while watched */
  napi_ref callback;
  napi_async_context context;
  napi_async_cleanup_hook_handle hook;
} Socket;

static bool socket_argument(napi_env env, napi_value value, Socket **s) {
  return napi_get_value_external(env, value, (void **)s) == napi_ok && *s != NULL;
}

static void release(Socket *s) {
  CHECK(s->owners > 0);
  if (--s->owners == 0) {
    CHECK(s->fd == -1);
    free(s);
  }
}

static void on_poll_closed(uv_handle_t *poll) {
  Socket *s = poll->data;
  napi_remove_async_cleanup_hook(s->hook); /* tells a waiting environment that it may go on */
  release(s);
}

static void close_socket(Socket *s) {
  if (s->fd < 0) return;
  int fd = s->fd;
  s->fd = -1;
  if (s->watched) {
    s->watched = false;
    uv_close((uv_handle_t *)&s->poll, on_poll_closed); /* stops polling at once; then fd may go */
    napi_delete_reference(s->env, s->callback);
    napi_delete_reference(s->env, s->handle);
    napi_async_destroy(s->env, s->context);
  }
  close(fd);
}

static void on_collected(napi_env env, void *data, void *hint) {
  (void)env, (void)hint;
  close_socket(data);
  release(data);
}

static void on_environment_end(napi_async_cleanup_hook_handle hook, void *data) {
  (void)hook;
  close_socket(data);
}

static void on_poll(uv_poll_t *poll, int status, int events) {
  (void)events;
  Socket *s = poll->data;
  napi_handle_scope scope;
  if (napi_open_handle_scope(s->env, &scope) != napi_ok) return;
  napi_value callback, self;
  if (napi_get_reference_value(s->env, s->callback, &callback) == napi_ok &&
      napi_get_global(s->env, &self) == napi_ok &&
      napi_make_callback(s->env, s->context, self, callback, 0, NULL, NULL) == napi_pending_exception) {
    napi_value error;
    if (napi_get_and_clear_last_exception(s->env, &error) == napi_ok) napi_fatal_exception(s->env, error);
  }
  napi_close_handle_scope(s->env, scope);
  /* Lost notifications leave ENOBUFS on the socket, poll(2) says POLLERR, and for that libuv stops the
   * handle and reports an error. The callback has fetched the error by receiving; go on watching. */
  if (status < 0 && s->fd >= 0) uv_poll_start(&s->poll, UV_READABLE, on_poll);
}

static napi_value open_socket(napi_env env, int family, int protocol) {
  Socket *s = calloc(1, sizeof *s);
  if (!s) return result(env, -ENOMEM);
  s->env = env;
  s->family = family;
  s->owners = 1;
  s->fd = socket(family, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, protocol);
  if (s->fd < 0) {
    int error = errno;
    free(s);
    return result(env, -error);
  }
  napi_value handle;
  if (napi_create_external(env, s, on_collected, NULL, &handle) != napi_ok) {
    close_socket(s);
    release(s);
    return result(env, -ENOMEM);
  }
  return handle;
}

/* open(protocol): handle or -errno */
static napi_value open_netlink(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS];
  int32_t protocol;
  if (!arguments(env, info, 1, args) || !int_argument(env, args[0], &protocol)) return misuse(env);
  return open_socket(env, AF_NETLINK, protocol);
}

/* openIcmp(): handle or -errno; what is sent has its IPv4 header with it, and so has what is received */
static napi_value open_icmp(napi_env env, napi_callback_info info) {
  (void)info;
  return open_socket(env, AF_INET, IPPROTO_ICMP);
}

/* openArp(interface): handle or -errno; the frames of ARP alone, with their Ethernet headers */
static napi_value open_arp(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS];
  int32_t interface;
  if (!arguments(env, info, 1, args) || !int_argument(env, args[0], &interface)) return misuse(env);
  napi_value handle = open_socket(env, AF_PACKET, 0);
  Socket *s;
  if (!handle || !socket_argument(env, handle, &s)) return handle;
  struct sockaddr_ll address = {
      .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ARP), .sll_ifindex = interface};
  if (bind(s->fd, (struct sockaddr *)&address, sizeof address) == 0) return handle;
  int error = errno;
  close_socket(s);
  return result(env, -error);
}

/* setOption(handle, level, option, value): 0 or -errno */
static napi_value set_option(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS];
  Socket *s;
  int32_t level, option, value;
  if (!arguments(env, info, 4, args) || !socket_argument(env, args[0], &s) ||
      !int_argument(env, args[1], &level) || !int_argument(env, args[2], &option) ||
      !int_argument(env, args[3], &value))
    return misuse(env);
  return result(env, setsockopt(s->fd, level, option, &value, sizeof value) == 0 ? 0 : -errno);
}

/* attachFilter(handle, program): 0 or -errno; the program is an array of struct sock_filter */
static napi_value attach_filter(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS];
  Socket *s;
  void *data;
  size_t size;
  if (!arguments(env, info, 2, args) || !socket_argument(env, args[0], &s) ||
      !bytes_argument(env, args[1], &data, &size))
    return misuse(env);
  struct sock_filter instructions[MAX_INSTRUCTIONS];
  if (size > sizeof instructions || size % sizeof *instructions != 0) return result(env, -EINVAL);
  memcpy(instructions, data, size); /* for its alignment */
  struct sock_fprog program = {.len = (unsigned short)(size / sizeof *instructions), .filter = instructions};
  return result(env, setsockopt(s->fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0 ? 0 : -errno);
}

/* bind(handle): the port id that the kernel chose, or -errno */
static napi_value bind_netlink(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS];
  Socket *s;
  if (!arguments(env, info, 1, args) || !socket_argument(env, args[0], &s)) return misuse(env);
  struct sockaddr_nl address = {.nl_family = AF_NETLINK};
  socklen_t length = sizeof address;
  if (bind(s->fd, (struct sockaddr *)&address, length) != 0 ||
      getsockname(s->fd, (struct sockaddr *)&address, &length) != 0)
    return result(env, -errno);
  return result(env, address.nl_pid);
}

/* send(handle, bytes, length): 0 or -errno; to the kernel, or one frame to the link */
static napi_value send_netlink(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS];
  Socket *s;
  void *data;
  size_t size;
  int32_t length;
  if (!arguments(env, info, 3, args) || !socket_argument(env, args[0], &s) ||
      !bytes_argument(env, args[1], &data, &size) || !int_argument(env, args[2], &length) || length < 0 ||
      (size_t)length > size)
    return misuse(env);
  struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
  bool to_kernel = s->family == AF_NETLINK;
  ssize_t sent;
  do {
    sent = sendto(s->fd, data, (size_t)length, 0, to_kernel ? (struct sockaddr *)&kernel : NULL,
                  to_kernel ? sizeof kernel : 0);
  } while (sent < 0 && errno == EINTR);
  return result(env, sent < 0 ? -errno : 0);
}

/* sendTo(handle, bytes, length, address): 0 or -errno; one IPv4 packet */
static napi_value send_packet(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS];
  Socket *s;
  void *data;
  size_t size;
  int32_t length;
  uint32_t address;
  if (!arguments(env, info, 4, args) || !socket_argument(env, args[0], &s) ||
      !bytes_argument(env, args[1], &data, &size) || !int_argument(env, args[2], &length) || length < 0 ||
      (size_t)length > size || napi_get_value_uint32(env, args[3], &address) != napi_ok)
    return misuse(env);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(address)};
  ssize_t sent;
  do {
    sent = sendto(s->fd, data, (size_t)length, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof to);
  } while (sent < 0 && errno == EINTR);
  return result(env, sent < 0 ? -errno : 0);
}

/* receive(handle, buffer): the length of one datagram, more than the buffer's when it was cut short, or -errno.
 * Of netlink, a datagram from another process is nothing that we asked for and is dropped. */
static napi_value receive_netlink(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS];
  Socket *s;
  void *data;
  size_t size;
  if (!arguments(env, info, 2, args) || !socket_argument(env, args[0], &s) ||
      !bytes_argument(env, args[1], &data, &size))
    return misuse(env);
  union {
    struct sockaddr_nl netlink;
    struct sockaddr_in ip;
    struct sockaddr_ll link;
  } sender;
  ssize_t length;
  do {
    socklen_t sender_length = sizeof sender;
    memset(&sender, 0, sizeof sender);
    length = recvfrom(s->fd, data, size, MSG_DONTWAIT | MSG_TRUNC, (struct sockaddr *)&sender, &sender_length);
  } while (length < 0 ? errno == EINTR : s->family == AF_NETLINK && sender.netlink.nl_pid != 0);
  return result(env, length < 0 ? -errno : length);
}

/* watch(handle, callback): 0 or -errno. The callback runs whenever there is something to receive, again and
 * again until it has been received, once per turn of the loop: it bounds its own work. */
static napi_value watch(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS], name;
  napi_valuetype type;
  uv_loop_t *loop;
  Socket *s;
  if (!arguments(env, info, 2, args) || !socket_argument(env, args[0], &s) ||
      napi_typeof(env, args[1], &type) != napi_ok || type != napi_function)
    return misuse(env);
  if (s->fd < 0) return result(env, -EBADF);
  if (s->watched) return result(env, -EALREADY);
  if (napi_get_uv_event_loop(env, &loop) != napi_ok ||
      napi_create_string_utf8(env, "flannel:socket", NAPI_AUTO_LENGTH, &name) != napi_ok)
    return result(env, -ENOMEM);
  int error = uv_poll_init(loop, &s->poll, s->fd);
  if (error != 0) return result(env, error);
  s->poll.data = s;
  s->watched = true;
  s->owners++;
  bool ok = napi_add_async_cleanup_hook(env, on_environment_end, s, &s->hook) == napi_ok &&
            napi_create_reference(env, args[0], 1, &s->handle) == napi_ok &&
            napi_create_reference(env, args[1], 1, &s->callback) == napi_ok &&
            napi_async_init(env, args[0], name, &s->context) == napi_ok;
  error = ok ? uv_poll_start(&s->poll, UV_READABLE, on_poll) : -ENOMEM;
  if (error != 0) close_socket(s);
  return result(env, error);
}

/* close(handle): undefined; closing twice is closing once */
static napi_value close_netlink(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS];
  Socket *s;
  if (!arguments(env, info, 1, args) || !socket_argument(env, args[0], &s)) return misuse(env);
  close_socket(s);
  return NULL;
}

/* notify(address, message): 0 or -errno; address is sun_path, without a final NUL, abstract with a leading one */
static napi_value notify(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS];
  void *path, *message;
  size_t path_length, length;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (!arguments(env, info, 2, args) || !bytes_argument(env, args[0], &path, &path_length) ||
      !bytes_argument(env, args[1], &message, &length))
    return misuse(env);
  if (path_length == 0 || path_length > sizeof address.sun_path) return result(env, -ENAMETOOLONG);
  memcpy(address.sun_path, path, path_length);
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return result(env, -errno);
  socklen_t address_length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path_length);
  /* Not waiting: a service manager that reads nothing must not be able to stop us. */
  ssize_t sent = sendto(fd, message, length, MSG_NOSIGNAL | MSG_DONTWAIT, (struct sockaddr *)&address, address_length);
  int error = sent < 0 ? -errno : 0;
  close(fd);
  return result(env, error);
}

/* Code of the program itself is clean and comes back from the page cache when it is run again. Only what its file backs:
 * with --use-largepages Node moves its code into memory of its own. */
static void drop_text(void) {
  char program[PATH_MAX];
  ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
  FILE *maps = length > 0 ? fopen("/proc/self/maps", "re") : NULL;
  if (!maps) return;
  program[length] = '\0';
  char *line = NULL;
  size_t size = 0;
  while (getline(&line, &size, maps) > 0) {
    uintptr_t start, end;
    int path = 0;
    line[strcspn(line, "\n")] = '\0';
    if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " r-xp %*s %*s %*s %n", &start, &end, &path) == 2 && path > 0 &&
        strcmp(line + path, program) == 0)
      madvise((void *)start, end - start, MADV_DONTNEED);
  }
  free(line);
  fclose(maps);
}

/* v8::Isolate::LowMemoryNotification (v8-isolate.h) collects all that is garbage, and shrinks the young generation. Node-API has
 * no call for it; a Node without these names of C++ collects as it sees fit. */
static void collect_garbage(void) {
  void *(*current)(void) = (void *(*)(void))dlsym(RTLD_DEFAULT, "_ZN2v87Isolate10GetCurrentEv");
  void (*low_memory)(void *) = (void (*)(void *))dlsym(RTLD_DEFAULT, "_ZN2v87Isolate21LowMemoryNotificationEv");
  void *isolate = current ? current() : NULL;
  if (isolate && low_memory) low_memory(isolate);
}

/* trim(): garbage, what malloc holds free, and what only a start runs, goes back to the kernel. */
static napi_value trim(napi_env env, napi_callback_info info) {
  (void)info;
  collect_garbage();
  malloc_trim(0);
  drop_text();
  return result(env, 0);
}

/* setV8Flags(text): undefined. v8::V8::SetFlagsFromString (v8-initialization.h), as node:v8 has it, which takes 2 ms and 0.4 MB. */
static napi_value set_v8_flags(napi_env env, napi_callback_info info) {
  napi_value args[MAX_ARGS];
  void *text;
  size_t length;
  if (!arguments(env, info, 1, args) || !bytes_argument(env, args[0], &text, &length)) return misuse(env);
  void (*set)(const char *, size_t) =
      (void (*)(const char *, size_t))dlsym(RTLD_DEFAULT, "_ZN2v82V818SetFlagsFromStringEPKcm");
  if (set) set(text, length);
  return NULL;
}

NAPI_MODULE_INIT() {
  const napi_property_descriptor functions[] = {
      {"open", NULL, open_netlink, NULL, NULL, NULL, napi_enumerable, NULL},
      {"openArp", NULL, open_arp, NULL, NULL, NULL, napi_enumerable, NULL},
      {"openIcmp", NULL, open_icmp, NULL, NULL, NULL, napi_enumerable, NULL},
      {"setOption", NULL, set_option, NULL, NULL, NULL, napi_enumerable, NULL},
      {"attachFilter", NULL, attach_filter, NULL, NULL, NULL, napi_enumerable, NULL},
      {"bind", NULL, bind_netlink, NULL, NULL, NULL, napi_enumerable, NULL},
      {"send", NULL, send_netlink, NULL, NULL, NULL, napi_enumerable, NULL},
      {"sendTo", NULL, send_packet, NULL, NULL, NULL, napi_enumerable, NULL},
      {"receive", NULL, receive_netlink, NULL, NULL, NULL, napi_enumerable, NULL},
      {"watch", NULL, watch, NULL, NULL, NULL, napi_enumerable, NULL},
      {"close", NULL, close_netlink, NULL, NULL, NULL, napi_enumerable, NULL},
      {"notify", NULL, notify, NULL, NULL, NULL, napi_enumerable, NULL},
      {"trim", NULL, trim, NULL, NULL, NULL, napi_enumerable, NULL},
      {"setV8Flags", NULL, set_v8_flags, NULL, NULL, NULL, napi_enumerable, NULL},
  };
  if (napi_define_properties(env, exports, sizeof functions / sizeof *functions, functions) != napi_ok) return NULL;
  return define_tunnel(env, exports) ? exports : NULL;
}
