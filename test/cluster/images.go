//go:build linux

package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/portico-ingress/portico/test/image"
)

// Names of images that every node has. They exist nowhere else, so pods must
// not pull them: imagePullPolicy Never or IfNotPresent.
const (
	// TestImage has the programs of test/cluster/toolbox and portico-demo in
	// /bin; it runs `serve :8080` as a user that is not root.
	TestImage = "portico.test/test:1"

	pauseImage = "portico.test/pause:1"
	dnsImage   = "portico.test/coredns:1"
)

// tools are the names that the test image has toolbox under.
var tools = []string{"pause", "sleep", "touch", "rm", "exists", "get", "lookup", "door", "serve"}

// buildImages writes the archives and returns their paths. It builds what else of
// this tree a cluster runs.
func (c *Cluster) buildImages(ctx context.Context) ([]string, error) {
	dir := filepath.Join(c.state, "images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	toolbox, demo := filepath.Join(dir, "toolbox"), filepath.Join(dir, "portico-demo")
	sources := map[string]string{"./test/cluster/toolbox": toolbox, "./cmd/portico-demo": demo}
	if c.options.Proxy == ProxyOurs {
		sources["./cmd/portico-node"] = c.ours()
	}
	for pkg, out := range sources {
		if err := (image.Program{Dir: c.programs.Root, Package: pkg}).Build(ctx, runtime.GOARCH, out); err != nil {
			return nil, err
		}
	}
	test := []image.File{{Path: "/bin/toolbox", Source: toolbox}, {Path: "/bin/portico-demo", Source: demo}, image.Temp}
	for _, tool := range tools {
		test = append(test, image.File{Path: "/bin/" + tool, Link: "toolbox"})
	}
	var archives []string
	for name, img := range map[string]*image.Image{
		pauseImage: {Files: []image.File{{Path: "/pause", Source: toolbox}}, Entrypoint: []string{"/pause"}},
		dnsImage:   {Files: []image.File{{Path: "/bin/coredns", Source: c.programs.CoreDNS}, image.Temp}, Entrypoint: []string{"/bin/coredns"}},
		TestImage:  {Files: test, Args: []string{"serve", ":8080"}},
	} {
		img.Architecture, img.Uncompressed = runtime.GOARCH, true
		archive := filepath.Join(dir, filepath.Base(filepath.Dir(name))+"-"+filepath.Base(name)+".tar")
		if err := image.WriteFile(archive, name, img); err != nil {
			return nil, err
		}
		archives = append(archives, archive)
	}
	return archives, nil
}

// LoadImage makes the images of an OCI archive (package test/image writes
// them) known to every node, under the names that they have in it.
func (c *Cluster) LoadImage(ctx context.Context, archive string) error {
	archive, err := filepath.Abs(archive) // ctr runs elsewhere
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, node := range c.nodes {
		group.Go(func() error {
			if _, err := node.Exec(ctx, "ctr", "images", "import", archive); err != nil {
				return fmt.Errorf("loading %s: %w", archive, err)
			}
			return nil
		})
	}
	return group.Wait()
}
