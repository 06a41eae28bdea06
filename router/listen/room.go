package listen

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// spare are the descriptors left for everything that is neither a client's nor a
// backend's: sockets that are listened on, the apiserver, pages, files.
const spare = 64

// Room returns how many connections of clients the process's limit of file
// descriptors (RLIMIT_NOFILE) leaves room for: a request needs a second descriptor,
// for its backend.
func Room() (int, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("cannot read the limit of file descriptors: %w", err)
	}
	return room(limit.Cur), nil
}

func room(descriptors uint64) int {
	const most = 1 << 30 // "unlimited" must fit an int
	return max(1, (int(min(descriptors, most))-spare)/2)
}
