/* Preloaded into a process of a test: counts the calls that change files below one folder, and
   at a chosen one ends the process, or says from then on that the disk is full. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char watched[PATH_MAX];
static long calls, at;
static int mode; /* 1: killed at that call; 2: full from that call on */

void fault_arm(const char *folder, long call, int what) {
    strncpy(watched, folder, sizeof watched - 1);
    __atomic_store_n(&calls, 0, __ATOMIC_SEQ_CST);
    at = call;
    mode = what;
}

long fault_calls(void) { return __atomic_load_n(&calls, __ATOMIC_SEQ_CST); }

static int fails(const char *path) {
    if (!watched[0] || strncmp(path, watched, strlen(watched)) != 0) return 0;
    long now = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (mode == 1 && now == at) _exit(137);
    if (mode == 2 && now >= at) {
        errno = ENOSPC;
        return 1;
    }
    return 0;
}

static int fails_fd(int fd) {
    char link[64], path[PATH_MAX];
    if (!watched[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return fails(path);
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, name)

ssize_t write(int fd, const void *data, size_t n) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return fails_fd(fd) ? -1 : real(fd, data, n);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t to) {
    REAL(ssize_t, "pwrite", int, const void *, size_t, off_t);
    return fails_fd(fd) ? -1 : real(fd, data, n, to);
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t to) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    return fails_fd(fd) ? -1 : real(fd, data, n, to);
}
ssize_t writev(int fd, const struct iovec *data, int n) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    return fails_fd(fd) ? -1 : real(fd, data, n);
}
ssize_t sendfile(int to, int from, off_t *at, size_t n) {
    REAL(ssize_t, "sendfile", int, int, off_t *, size_t);
    return fails_fd(to) ? -1 : real(to, from, at, n);
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t n) {
    REAL(ssize_t, "sendfile64", int, int, off64_t *, size_t);
    return fails_fd(to) ? -1 : real(to, from, at, n);
}
ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t n, unsigned how) {
    REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
    return fails_fd(to) ? -1 : real(from, a, to, b, n, how);
}
int ftruncate(int fd, off_t n) {
    REAL(int, "ftruncate", int, off_t);
    return fails_fd(fd) ? -1 : real(fd, n);
}
int ftruncate64(int fd, off64_t n) {
    REAL(int, "ftruncate64", int, off64_t);
    return fails_fd(fd) ? -1 : real(fd, n);
}
int fsync(int fd) {
    REAL(int, "fsync", int);
    return fails_fd(fd) ? -1 : real(fd);
}
int fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    return fails_fd(fd) ? -1 : real(fd);
}
int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return fails(to) ? -1 : real(from, to);
}
int link(const char *from, const char *to) {
    REAL(int, "link", const char *, const char *);
    return fails(to) ? -1 : real(from, to);
}
int mkdir(const char *path, mode_t how) {
    REAL(int, "mkdir", const char *, mode_t);
    return fails(path) ? -1 : real(path, how);
}

/* deletions do not fail on a full disk, but a process can be killed at them */
static void at_deletion(const char *path) {
    if (mode == 1) fails(path);
}
int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    at_deletion(path);
    return real(path);
}
int rmdir(const char *path) {
    REAL(int, "rmdir", const char *);
    at_deletion(path);
    return real(path);
}

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, #name, const char *, int, ...); \
        va_list more; \
        va_start(more, flags); \
        mode_t how = (flags & O_CREAT) ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        if ((flags & O_CREAT) && access(path, F_OK) != 0 && fails(path)) return -1; \
        return real(path, flags, how); \
    }
OPENS(open)
OPENS(open64)
