//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/portico-ingress/portico/test/image"
)

// registry is where the tests are told that all of their images are. It does
// not exist: the images are made here and loaded into the nodes.
const registry = "portico.test/e2e"

// registriesFile tells the tests so.
const registriesFile = "registries.yaml"

// imagesVariable is what e2e.test reads the file by.
func imagesVariable(out string) string {
	return "KUBE_TEST_REPO_LIST=" + filepath.Join(out, registriesFile)
}

// programs are what tests run in their pods' shells, and the Debian packages
// that they come from.
var programs = map[string]string{
	"bash": "bash", "dash": "dash", "curl": "curl", "wget": "wget", "nc.openbsd": "netcat-openbsd", "socat": "socat",
	"dig": "bind9-dnsutils", "nslookup": "bind9-dnsutils",
	"ip": "iproute2", "ss": "iproute2", "grep": "grep", "sed": "sed", "hostname": "hostname",
	"cat": "coreutils", "cut": "coreutils", "date": "coreutils", "dd": "coreutils", "env": "coreutils", "head": "coreutils", "id": "coreutils",
	"ls": "coreutils", "mkdir": "coreutils", "rm": "coreutils", "seq": "coreutils", "sleep": "coreutils", "sort": "coreutils",
	"tail": "coreutils", "tee": "coreutils", "timeout": "coreutils", "touch": "coreutils", "tr": "coreutils", "uniq": "coreutils", "wc": "coreutils",
}

// aliases are the names that tests know some of them by.
var aliases = map[string]string{"sh": "dash", "nc": "nc.openbsd"}

// buildImages writes the images as OCI archives and returns their paths.
func buildImages(ctx context.Context, tests, out string) ([]string, error) {
	shell, err := userland(ctx)
	if err != nil {
		return nil, err
	}
	agnhost := []image.File{
		{Path: "/agnhost", Source: filepath.Join(tests, "agnhost")},
		{Path: "/agnhost-2", Link: "agnhost"},
		// Its own certificate, of which its porter makes use.
		{Path: "/localhost.crt", Source: filepath.Join(tests, "localhost.crt")},
		{Path: "/localhost.key", Source: filepath.Join(tests, "localhost.key")},
		{Path: "/uploads", Mode: image.Temp.Mode},
	}
	const boom = "regression-issue-74839"
	images := map[string]*image.Image{
		"agnhost": {Files: slices.Concat(agnhost, shell), Entrypoint: []string{"/agnhost"}, Args: []string{"pause"}},
		"busybox": {Files: shell, Args: []string{"sh"}},
		"pause":   {Files: agnhost[:1], Entrypoint: []string{"/agnhost", "pause"}},
		boom:      {Files: []image.File{{Path: "/" + boom, Source: filepath.Join(tests, boom)}}, Entrypoint: []string{"/" + boom}},
	}
	names, err := imageNames(ctx, tests, out)
	if err != nil {
		return nil, err
	}
	var archives []string
	for name, img := range images {
		if names[name] == "" {
			return nil, fmt.Errorf("e2e.test no longer knows an image %s: see test/e2e/services/images.go", name)
		}
		img.Architecture, img.Uncompressed, img.User = runtime.GOARCH, true, "0:0"
		archive := filepath.Join(out, name+".tar")
		if err := image.WriteFile(archive, names[name], img); err != nil {
			return nil, err
		}
		archives = append(archives, archive)
	}
	return archives, nil
}

// imageNames asks e2e.test for the names of its images: by the last word of
// the repository, with the tag. Of agnhost, which has two versions, the one
// that was built.
func imageNames(ctx context.Context, tests, out string) (map[string]string, error) {
	var list strings.Builder
	for _, r := range []string{"promoterE2eRegistry", "gcRegistry", "gcEtcdRegistry", "buildImageRegistry", "sigStorageRegistry"} {
		fmt.Fprintf(&list, "%s: %s\n", r, registry)
	}
	if err := os.WriteFile(filepath.Join(out, registriesFile), []byte(list.String()), 0o644); err != nil {
		return nil, err
	}
	version, err := os.ReadFile(filepath.Join(tests, "VERSION"))
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(tests, "e2e.test"), "--list-images")
	cmd.Env = append(os.Environ(), imagesVariable(out))
	printed, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("e2e.test --list-images: %w", err)
	}
	names := map[string]string{}
	for _, name := range strings.Fields(string(printed)) {
		repository, _, _ := strings.Cut(path.Base(name), ":")
		if strings.HasPrefix(name, registry+"/") {
			names[repository] = name
		}
	}
	names["agnhost"] = registry + "/agnhost:" + string(bytes.TrimSpace(version))
	return names, nil
}

// library finds the path of a shared library in a line of ldd.
var library = regexp.MustCompile(`/\S+`)

// userland returns the programs of a shell with their libraries. They are this
// computer's, as there is no image to build upon.
func userland(ctx context.Context) ([]image.File, error) {
	byPath := map[string]image.File{
		"/tmp":               image.Temp,
		"/etc/passwd":        {Path: "/etc/passwd", Data: []byte("root:x:0:0:root:/:/bin/sh\n")},
		"/etc/nsswitch.conf": {Path: "/etc/nsswitch.conf", Data: []byte("hosts: files dns\n")},
	}
	for alias, program := range aliases {
		byPath["/bin/"+alias] = image.File{Path: "/bin/" + alias, Link: program}
	}
	for program, pkg := range programs {
		source, err := exec.LookPath(program)
		if err != nil {
			return nil, fmt.Errorf("%s is missing, which tests run in pods: apt-get install %s", program, pkg)
		}
		byPath["/bin/"+program] = image.File{Path: "/bin/" + program, Source: source}
		libraries, err := exec.CommandContext(ctx, "ldd", source).Output()
		if err != nil {
			return nil, fmt.Errorf("ldd %s: %w", source, err)
		}
		for _, file := range library.FindAllString(string(libraries), -1) {
			byPath[file] = image.File{Path: file, Source: file}
		}
	}
	return slices.Collect(maps.Values(byPath)), nil
}
