//go:build linux

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// hierarchies returns where cgroups are mounted: of version 1 one folder per
// controller; of version 2 one folder. A computer may have both, and then the
// controllers are with version 1.
func hierarchies() (v1, v2 []string, err error) {
	content, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, nil, err
	}
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		switch {
		case len(fields) < 3:
		case fields[2] == "cgroup":
			v1 = append(v1, fields[1])
		case fields[2] == "cgroup2":
			v2 = append(v2, fields[1])
		}
	}
	if len(v1)+len(v2) == 0 {
		return nil, nil, errors.New("no cgroups are mounted: /sys/fs/cgroup is needed")
	}
	return v1, v2, nil
}

// makeCgroup makes the cgroup under which kubelet makes those of pods.
func makeCgroup(name string) error {
	parents, v2, err := hierarchies()
	if err != nil {
		return err
	}
	if len(parents) == 0 {
		parents = v2
	}
	for _, parent := range parents {
		dir := filepath.Join(parent, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		// A new cpuset of version 1 is empty, and takes nobody in.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if err := copySetting(parent, dir, file); err != nil {
				return err
			}
		}
	}
	return nil
}

// copySetting copies a cgroup's setting to a child, if the parent has it.
func copySetting(parent, child, file string) error {
	value, err := os.ReadFile(filepath.Join(parent, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(child, file), value, 0o644)
}

// removeCgroup removes a cgroup and those below it. Their processes must be
// gone; the kernel may take a moment to notice.
func removeCgroup(ctx context.Context, name string) error {
	v1, v2, err := hierarchies()
	if err != nil {
		return err
	}
	// runc makes cgroups of version 2 as well if there are both.
	for _, parent := range append(v1, v2...) {
		dir := filepath.Join(parent, name)
		if err := poll(ctx, func(context.Context) error { return removeTree(dir) }); err != nil {
			return fmt.Errorf("removing cgroup %s: %w", dir, err)
		}
	}
	return nil
}

// removeTree removes folders from the innermost out; the files in them are the
// kernel's and go with them.
func removeTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(dirs) {
		if err := os.Remove(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
