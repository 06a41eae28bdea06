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

// hierarchies returns where cgroups are mounted: one folder per controller
// with version 1, a single one with version 2.
func hierarchies() ([]string, error) {
	content, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	byType := map[string][]string{}
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) > 2 && strings.HasPrefix(fields[2], "cgroup") {
			byType[fields[2]] = append(byType[fields[2]], fields[1])
		}
	}
	if v1 := byType["cgroup"]; len(v1) > 0 {
		return v1, nil
	}
	if v2 := byType["cgroup2"]; len(v2) > 0 {
		return v2, nil
	}
	return nil, errors.New("no cgroups are mounted: /sys/fs/cgroup is needed")
}

// makeCgroup makes the cgroup under which kubelet makes those of pods.
func makeCgroup(name string) error {
	parents, err := hierarchies()
	if err != nil {
		return err
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
	parents, err := hierarchies()
	if err != nil {
		return nil // then there are none
	}
	for _, parent := range parents {
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
