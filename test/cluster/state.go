//go:build linux

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Files of a cluster's folder.
const (
	// recordFile is written first, and says that the folder is a cluster's.
	recordFile = "cluster.json"
	// completeFile is written last.
	completeFile = "complete"
)

// A record is what Down and Open must know of a cluster.
type record struct {
	Network network
	Nodes   int
	Kube    string // folder of Kubernetes' programs
}

// StateDir is the folder that a cluster uses unless told otherwise. It may be
// set by PORTICO_CACHE, as that of the built tools.
func StateDir() (string, error) {
	if cache := os.Getenv("PORTICO_CACHE"); cache != "" {
		return filepath.Abs(filepath.Join(cache, "cluster"))
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no folder for the cluster's state: %w; set PORTICO_CACHE", err)
	}
	return filepath.Join(cache, "portico", "cluster"), nil
}

// longestState keeps Unix sockets in the folder below the 108 bytes that the
// kernel takes.
const longestState = 70

// checkState returns the folder as an absolute path that a cluster can use.
func checkState(state string) (string, error) {
	if state == "" {
		return StateDir()
	}
	state, err := filepath.Abs(state)
	if err != nil {
		return "", err
	}
	if len(state) > longestState {
		return "", fmt.Errorf("the path of the state folder %s is longer than %d bytes, which is too long for the sockets in it", state, longestState)
	}
	for _, dir := range append([]string{"/sys", "/proc"}, hidden...) {
		if state == dir || strings.HasPrefix(state, dir+"/") {
			return "", fmt.Errorf("the state folder cannot be in %s: machines have their own %s", dir, dir)
		}
	}
	return state, nil
}

// lock keeps others from starting and ending the cluster of the folder, until
// the returned function is called or the program ends. The lock is beside the
// folder, which comes and goes.
func lock(ctx context.Context, state string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(state), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(state+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = poll(ctx, func(context.Context) error {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			return fmt.Errorf("the cluster in %s is being started or ended by another program: %w", state, err)
		}
		return nil
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// readRecord returns the record of the folder; ok says whether it is a
// cluster's. A record that was cut off is that of a cluster which got no
// further.
func readRecord(state string) (r record, ok bool, err error) {
	r.Network = noNetwork
	content, err := os.ReadFile(filepath.Join(state, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err != nil {
		return r, false, err
	}
	if json.Unmarshal(content, &r) != nil {
		return record{Network: noNetwork}, true, nil
	}
	return r, true, nil
}

func (c *Cluster) writeRecord() error {
	content, err := json.Marshal(record{c.net, len(c.nodes), c.programs.Kube})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.state, recordFile), content, 0o644)
}

// isComplete says whether Up came to its end.
func isComplete(state string) bool {
	_, err := os.Stat(filepath.Join(state, completeFile))
	return err == nil
}

// Down ends the cluster in the folder, however far it came and whatever became
// of the program that started it, and removes the folder. It ends processes
// and removes network namespaces, mounts, cgroups and the host's link. Without
// a cluster it does nothing. An empty folder is StateDir.
func Down(ctx context.Context, state string) error {
	if err := requireRoot(); err != nil {
		return err
	}
	state, err := checkState(state)
	if err != nil {
		return err
	}
	unlock, err := lock(ctx, state)
	if err != nil {
		return err
	}
	defer unlock()
	return clear(ctx, state)
}

// clear is Down with the lock held.
func clear(ctx context.Context, state string) error {
	if err := halt(ctx, state); err != nil {
		return err
	}
	_, ok, err := readRecord(state)
	if err != nil {
		return err
	}
	if ok {
		return os.RemoveAll(state)
	}
	if err := os.Remove(state); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not the folder of a cluster, and will not be removed: %w", state, err)
	}
	return nil
}

// halt ends everything of a cluster but its folder, with the logs in it.
func halt(ctx context.Context, state string) error {
	running, err := machines(state)
	if err != nil {
		return err
	}
	for _, pid := range running {
		if err := kill(ctx, pid); err != nil {
			return err
		}
	}
	if err := disconnect(ctx, state); err != nil {
		return err
	}
	r, _, err := readRecord(state)
	if err != nil || r.Network == noNetwork {
		return err
	}
	for k := range r.Nodes {
		if err := removeCgroup(ctx, r.Network.cgroup(k+1)); err != nil {
			return err
		}
	}
	return os.RemoveAll(filepath.Join(state, completeFile))
}

// sortedNames are the machines in the order of their names: control, node1, ….
func sortedNames(running map[string]int) []string {
	var names []string
	for name := range running {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
