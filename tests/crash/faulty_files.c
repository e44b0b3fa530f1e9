/* A layer between a program and its files, loaded with LD_PRELOAD: it records what is done to
 * the files below one directory, and lets chosen calls fail. `faulty_files.py` says how to use it;
 * the two files share the layout of a record and of a rule. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum call { OPEN, WRITE, TRUNCATE, ALLOCATE, FSYNC, FDATASYNC, RENAME, LINK, UNLINK, MKDIR, RMDIR,
            CLOSE, MSYNC, RANGE, MARK, DSYNC };

/* Outcomes of a rule besides an error number. */
enum { SHORT = -1, KILL = -2 };

struct rule {
    uint32_t calls;  /* a bit for each kind; 0 while the slot is unused */
    int32_t error;
    int64_t skip;    /* calls that still succeed */
    int64_t count;   /* calls that still fail, -1 without a bound */
    int64_t until;   /* nanoseconds of CLOCK_MONOTONIC after which it no longer holds, 0 never */
    int64_t hits;    /* calls that it has failed */
    char name[88];   /* a pattern of the file's base name */
};
enum { RULES = 16 };

struct record {
    uint32_t path_size, other_size;
    uint64_t data_size;
    uint64_t handle;
    int64_t offset;
    int64_t result;  /* what the call returned, or -errno */
    int32_t call, flags;
    int32_t process, killed;
};

struct handle {
    uint64_t number;
    int flags;
    pid_t process;
    char *path;
};

enum { DESCRIPTORS = 65536 };

static struct handle handles[DESCRIPTORS];
static uint64_t opened;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_size;
static int trace = -1;
static struct rule *rules;

#define REAL(name) ({                                                    \
    static __typeof__(&name) found;                                      \
    if (!found) found = (__typeof__(&name))dlsym(RTLD_NEXT, #name);      \
    found; })

static pid_t process(void) { return (pid_t)syscall(SYS_getpid); }

__attribute__((constructor)) static void start(void) {
    const char *directory = getenv("FAULTY_FILES_DIRECTORY");
    const char *traced = getenv("FAULTY_FILES_TRACE"), *control = getenv("FAULTY_FILES_RULES");
    if (!directory || !realpath(directory, root)) return;
    root_size = strlen(root);
    if (traced) trace = REAL(open)(traced, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (control) {
        int file = REAL(open)(control, O_RDWR | O_CLOEXEC);
        void *shared = file < 0 ? MAP_FAILED
            : mmap(NULL, RULES * sizeof(struct rule), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (file >= 0) REAL(close)(file);
        if (shared != MAP_FAILED) rules = shared;
    }
}

static int below(const char *path) {
    return root_size && !strncmp(path, root, root_size)
        && (path[root_size] == '/' || !path[root_size]);
}

/* The absolute path of a name that a call was given, or NULL where it is not below the root. */
static const char *absolute(int directory, const char *path, char *space) {
    if (!root_size || !path) return NULL;
    if (*path == '/') {
        snprintf(space, PATH_MAX, "%s", path);
    } else {
        char base[PATH_MAX];
        if (directory == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return NULL;
        } else {
            char link[64];
            snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
            ssize_t size = readlink(link, base, sizeof base - 1);
            if (size < 0) return NULL;
            base[size] = 0;
        }
        if (strlen(base) + strlen(path) + 2 > PATH_MAX) return NULL;
        strcpy(space, base);
        strcat(space, "/");
        strcat(space, path);
    }
    return below(space) ? space : NULL;
}

static struct handle *handle_of(int descriptor) {
    if (descriptor < 0 || descriptor >= DESCRIPTORS || !handles[descriptor].number) return NULL;
    /* A child of vfork shares our memory, but not our descriptors. */
    return handles[descriptor].process == process() ? &handles[descriptor] : NULL;
}

static void record(struct record head, const char *path, const char *other,
                   const struct iovec *data, int pieces) {
    if (trace < 0) return;
    int before = errno;
    struct iovec parts[pieces + 3];
    head.path_size = path ? strlen(path) : 0;
    head.other_size = other ? strlen(other) : 0;
    head.process = process();
    parts[0] = (struct iovec){&head, sizeof head};
    parts[1] = (struct iovec){(void *)(path ? path : ""), head.path_size};
    parts[2] = (struct iovec){(void *)(other ? other : ""), head.other_size};
    uint64_t left = head.data_size;
    for (int i = 0; i < pieces; i++) {
        size_t size = data[i].iov_len < left ? data[i].iov_len : left;
        parts[i + 3] = (struct iovec){data[i].iov_base, size};
        left -= size;
    }
    size_t whole = sizeof head + head.path_size + head.other_size + head.data_size;
    if (REAL(writev)(trace, parts, pieces + 3) != (ssize_t)whole) {
        fputs("faulty_files: the trace cannot be written\n", stderr);
        abort();
    }
    errno = before;
}

/* What a rule says of a call: 0 to do it, an error number, SHORT or KILL. */
static int verdict(enum call call, const char *path) {
    if (!rules || !path) return 0;
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    for (int i = 0; i < RULES; i++) {
        struct rule *rule = &rules[i];
        if (!(rule->calls >> call & 1) || !rule->count) continue;
        if (rule->until) {
            struct timespec now;
            clock_gettime(CLOCK_MONOTONIC, &now);
            if (now.tv_sec * 1000000000LL + now.tv_nsec >= rule->until) continue;
        }
        if (fnmatch(rule->name, name, 0)) continue;
        if (rule->skip > 0) {
            rule->skip--;
            continue;
        }
        if (rule->count > 0) rule->count--;
        rule->hits++;
        return rule->error;
    }
    return 0;
}

static void die(void) {
    syscall(SYS_kill, process(), SIGKILL);
    for (;;) pause();
}

/* -- descriptors --------------------------------------------------------------------------- */

static int opening(int directory, const char *path, int flags, mode_t mode) {
    char space[PATH_MAX];
    const char *name = absolute(directory, path, space);
    if (!name) return REAL(openat)(directory, path, flags, mode);
    pthread_mutex_lock(&turn);
    int failed = verdict(OPEN, name), file = -1;
    if (failed == KILL) die();
    if (failed > 0) {
        errno = failed;
    } else {
        file = REAL(openat)(directory, path, flags, mode);
    }
    uint64_t number = 0;
    if (file >= 0 && file < DESCRIPTORS) {
        number = ((uint64_t)process() << 32) | ++opened;
        free(handles[file].path);
        handles[file] = (struct handle){number, flags, process(), strdup(name)};
    }
    record((struct record){.call = OPEN, .handle = number, .flags = flags,
                           .result = file < 0 ? -errno : 0}, name, NULL, NULL, 0);
    int error = errno;
    pthread_mutex_unlock(&turn);
    errno = error;
    return file;
}

#define MODE(flags) ({                                                   \
    mode_t mode = 0;                                                     \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                             \
        va_list rest;                                                    \
        va_start(rest, flags);                                           \
        mode = va_arg(rest, mode_t);                                     \
        va_end(rest);                                                    \
    }                                                                    \
    mode; })

int open(const char *path, int flags, ...) { return opening(AT_FDCWD, path, flags, MODE(flags)); }
int open64(const char *path, int flags, ...) { return opening(AT_FDCWD, path, flags, MODE(flags)); }
int openat(int directory, const char *path, int flags, ...) {
    return opening(directory, path, flags, MODE(flags));
}
int openat64(int directory, const char *path, int flags, ...) {
    return opening(directory, path, flags, MODE(flags));
}
int creat(const char *path, mode_t mode) {
    return opening(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode);
}
int creat64(const char *path, mode_t mode) {
    return opening(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode);
}

int close(int file) {
    if (!handle_of(file)) return REAL(close)(file);
    pthread_mutex_lock(&turn);
    struct handle *handle = &handles[file];
    int failed = verdict(CLOSE, handle->path);
    if (failed == KILL) die();
    uint64_t number = handle->number;
    free(handle->path);
    *handle = (struct handle){0};
    int result = REAL(close)(file);
    if (failed > 0) {
        /* As Linux does it: the descriptor is gone all the same. */
        errno = failed;
        result = -1;
    }
    record((struct record){.call = CLOSE, .handle = number, .result = result < 0 ? -errno : 0},
           NULL, NULL, NULL, 0);
    int error = errno;
    pthread_mutex_unlock(&turn);
    errno = error;
    return result;
}

/* -- writing -------------------------------------------------------------------------------- */

static ssize_t writing(int file, const struct iovec *data, int pieces, int64_t offset) {
    pthread_mutex_lock(&turn);
    struct handle *handle = &handles[file];
    int failed = verdict(WRITE, handle->path);
    /* LMDB writes its meta pages so, and those alone. */
    if (!failed && handle->flags & O_DSYNC) failed = verdict(DSYNC, handle->path);
    struct iovec parts[pieces];
    memcpy(parts, data, pieces * sizeof *parts);
    int count = pieces;
    if (failed == SHORT) {
        count = 1;
        parts[0].iov_len = parts[0].iov_len / 2;
    }
    ssize_t result = -1;
    if (failed > 0) {
        errno = failed;
    } else if (offset >= 0) {
        result = REAL(pwritev)(file, parts, count, offset);
    } else {
        result = REAL(writev)(file, parts, count);
        if (result >= 0) offset = lseek(file, 0, SEEK_CUR) - result;
    }
    record((struct record){.call = WRITE, .handle = handle->number, .offset = offset,
                           .result = result < 0 ? -errno : result, .killed = failed == KILL,
                           .data_size = result < 0 ? 0 : result}, NULL, NULL, parts, count);
    if (failed == KILL) die();
    int error = errno;
    pthread_mutex_unlock(&turn);
    errno = error;
    return result;
}

ssize_t write(int file, const void *data, size_t size) {
    if (!handle_of(file)) return REAL(write)(file, data, size);
    struct iovec part = {(void *)data, size};
    return writing(file, &part, 1, -1);
}
ssize_t writev(int file, const struct iovec *data, int pieces) {
    if (!handle_of(file)) return REAL(writev)(file, data, pieces);
    return writing(file, data, pieces, -1);
}
ssize_t pwrite(int file, const void *data, size_t size, off_t offset) {
    if (!handle_of(file)) return REAL(pwrite)(file, data, size, offset);
    struct iovec part = {(void *)data, size};
    return writing(file, &part, 1, offset);
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) {
    return pwrite(file, data, size, offset);
}
ssize_t pwritev(int file, const struct iovec *data, int pieces, off_t offset) {
    if (!handle_of(file)) return REAL(pwritev)(file, data, pieces, offset);
    return writing(file, data, pieces, offset);
}
ssize_t pwritev64(int file, const struct iovec *data, int pieces, off64_t offset) {
    return pwritev(file, data, pieces, offset);
}

/* -- calls on a descriptor that return 0 or -1 ------------------------------------------------- */

#define ON_FILE(kind, file, position, real) do {                                            \
    if (!handle_of(file)) return real;                                                      \
    pthread_mutex_lock(&turn);                                                              \
    struct handle *handle = &handles[file];                                                 \
    int failed = verdict(kind, handle->path);                                               \
    if (failed == KILL) die();                                                              \
    int result = -1;                                                                        \
    if (failed > 0) errno = failed; else result = real;                                     \
    record((struct record){.call = kind, .handle = handle->number, .offset = position,      \
                           .result = result < 0 ? -errno : result}, NULL, NULL, NULL, 0);   \
    int error = errno;                                                                      \
    pthread_mutex_unlock(&turn);                                                            \
    errno = error;                                                                          \
    return result;                                                                          \
} while (0)

int fsync(int file) { ON_FILE(FSYNC, file, 0, REAL(fsync)(file)); }
int fdatasync(int file) { ON_FILE(FDATASYNC, file, 0, REAL(fdatasync)(file)); }
int ftruncate(int file, off_t size) { ON_FILE(TRUNCATE, file, size, REAL(ftruncate)(file, size)); }
int ftruncate64(int file, off64_t size) { return ftruncate(file, size); }
int sync_file_range(int file, off64_t offset, off64_t size, unsigned flags) {
    ON_FILE(RANGE, file, offset, REAL(sync_file_range)(file, offset, size, flags));
}
int fallocate(int file, int mode, off_t offset, off_t size) {
    ON_FILE(ALLOCATE, file, offset + size, REAL(fallocate)(file, mode, offset, size));
}
int fallocate64(int file, int mode, off64_t offset, off64_t size) {
    return fallocate(file, mode, offset, size);
}

/* This one returns its error, and leaves errno alone. */
int posix_fallocate(int file, off_t offset, off_t size) {
    if (!handle_of(file)) return REAL(posix_fallocate)(file, offset, size);
    pthread_mutex_lock(&turn);
    struct handle *handle = &handles[file];
    int result = verdict(ALLOCATE, handle->path);
    if (result == KILL) die();
    if (result <= 0) result = REAL(posix_fallocate)(file, offset, size);
    record((struct record){.call = ALLOCATE, .handle = handle->number, .offset = offset + size,
                           .result = -result}, NULL, NULL, NULL, 0);
    pthread_mutex_unlock(&turn);
    return result;
}
int posix_fallocate64(int file, off64_t offset, off64_t size) {
    return posix_fallocate(file, offset, size);
}

int msync(void *address, size_t size, int flags) {
    int result = REAL(msync)(address, size, flags);
    record((struct record){.call = MSYNC, .result = result < 0 ? -errno : 0}, NULL, NULL, NULL, 0);
    return result;
}

/* -- names ---------------------------------------------------------------------------------- */

#define ON_NAME(kind, name, other, real) do {                                               \
    if (!(name)) return real;                                                               \
    pthread_mutex_lock(&turn);                                                              \
    int failed = verdict(kind, name);                                                       \
    if (failed == KILL) die();                                                              \
    int result = -1;                                                                        \
    if (failed > 0) errno = failed; else result = real;                                     \
    record((struct record){.call = kind, .result = result < 0 ? -errno : result},           \
           name, other, NULL, 0);                                                           \
    int error = errno;                                                                      \
    pthread_mutex_unlock(&turn);                                                            \
    errno = error;                                                                          \
    return result;                                                                          \
} while (0)

int renameat(int from, const char *old, int to, const char *new) {
    char first[PATH_MAX], second[PATH_MAX];
    const char *name = absolute(from, old, first), *other = absolute(to, new, second);
    ON_NAME(RENAME, name, other, REAL(renameat)(from, old, to, new));
}
int rename(const char *old, const char *new) { return renameat(AT_FDCWD, old, AT_FDCWD, new); }

int linkat(int from, const char *old, int to, const char *new, int flags) {
    char first[PATH_MAX], second[PATH_MAX];
    const char *name = absolute(from, old, first), *other = absolute(to, new, second);
    ON_NAME(LINK, name, other, REAL(linkat)(from, old, to, new, flags));
}
int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }

int unlinkat(int directory, const char *path, int flags) {
    char space[PATH_MAX];
    const char *name = absolute(directory, path, space);
    if (flags & AT_REMOVEDIR) ON_NAME(RMDIR, name, NULL, REAL(unlinkat)(directory, path, flags));
    ON_NAME(UNLINK, name, NULL, REAL(unlinkat)(directory, path, flags));
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) {
    struct stat status;
    int directory = !lstat(path, &status) && S_ISDIR(status.st_mode);
    return unlinkat(AT_FDCWD, path, directory ? AT_REMOVEDIR : 0);
}

int mkdirat(int directory, const char *path, mode_t mode) {
    char space[PATH_MAX];
    const char *name = absolute(directory, path, space);
    ON_NAME(MKDIR, name, NULL, REAL(mkdirat)(directory, path, mode));
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* For the program itself: a note between the calls. */
void faulty_files_mark(const char *data, size_t size) {
    struct iovec part = {(void *)data, size};
    pthread_mutex_lock(&turn);
    record((struct record){.call = MARK, .data_size = size}, NULL, NULL, &part, 1);
    pthread_mutex_unlock(&turn);
}
