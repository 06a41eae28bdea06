// Command build writes the container images of our programs as OCI archives, each
// with a list of the modules in it (CycloneDX) inside and beside it. It needs no
// container engine and no registry; two builds of the same commit are equal.
package main

import (
	"context"
	"debug/buildinfo"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/portico-ingress/portico/test/image"
)

func main() {
	out := flag.String("out", "bin/images", "folder to write to")
	version := flag.String("version", "dev", "version, and tag of the image")
	commit := flag.String("commit", "", "commit that is built")
	archs := flag.String("arch", "amd64,arm64", "architectures, as in GOARCH")
	programs := flag.String("programs", "portico,portico-node", "names of the programs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	b := builder{out: *out, version: *version, commit: *commit}
	for name := range strings.SplitSeq(*programs, ",") {
		if err := b.build(ctx, name, strings.Split(*archs, ",")); err != nil {
			fmt.Fprintln(os.Stderr, "image:", err)
			os.Exit(1)
		}
	}
}

// registry is the chart's default. The archive may be pushed anywhere.
const registry = "portico.dev/"

// variables is what the linker knows our programs' version and commit by.
const variables = "github.com/portico-ingress/portico/cmd/internal/program."

type builder struct{ out, version, commit string }

func (b builder) build(ctx context.Context, name string, archs []string) error {
	if err := os.MkdirAll(b.out, 0o755); err != nil {
		return err
	}
	var images []*image.Image
	for _, arch := range archs {
		fmt.Printf("building %s for %s\n", name, arch) // minutes, without a cache
		img, err := b.image(ctx, name, arch)
		if err != nil {
			return err
		}
		images = append(images, img)
	}
	archive := filepath.Join(b.out, name+".oci.tar")
	f, err := os.Create(archive)
	if err != nil {
		return err
	}
	digest, err := image.Write(f, []string{registry + name + ":" + b.version}, images...)
	if err := firstOf(err, f.Close()); err != nil {
		return err
	}
	fmt.Printf("%s %s%s:%s %s\n", archive, registry, name, b.version, digest)
	fmt.Println("once pushed:", install(name, b.version))
	return nil
}

// install is the command of README.md, or of docs/node.md.
func install(name, version string) string {
	where := "--namespace portico-system --create-namespace"
	if name == "portico-node" { // has no default for the apiserver, and goes where kube-proxy is
		where = "--namespace kube-system --set apiserver.host=192.0.2.10 --set clusterCIDR='{10.244.0.0/16}'"
	}
	return fmt.Sprintf("helm install %[1]s charts/%[1]s %[3]s --set image.repository=YOUR-REGISTRY/%[1]s --set image.tag=%[2]s", name, version, where)
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (b builder) image(ctx context.Context, name, arch string) (*image.Image, error) {
	binary := filepath.Join(b.out, name+"-"+arch)
	program := image.Program{Dir: ".", Package: "./cmd/" + name, LDFlags: "-X " + variables + "version=" + b.version + " -X " + variables + "commit=" + b.commit}
	if err := program.Build(ctx, arch, binary); err != nil {
		return nil, err
	}
	bom, err := billOfMaterials(binary, b.version)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(binary+".cdx.json", bom, 0o644); err != nil {
		return nil, err
	}
	return &image.Image{
		Architecture: arch,
		Files: []image.File{
			{Path: "/" + name, Source: binary, Mode: 0o755},
			{Path: "/sbom.cdx.json", Data: bom},
		},
		Entrypoint: []string{"/" + name},
		Labels: map[string]string{
			"org.opencontainers.image.title":    name,
			"org.opencontainers.image.version":  b.version,
			"org.opencontainers.image.revision": b.commit,
			"org.opencontainers.image.licenses": "Apache-2.0",
		},
	}, nil
}

// billOfMaterials lists the modules that the linker recorded in a binary, in
// the form of CycloneDX 1.5.
func billOfMaterials(binary, version string) ([]byte, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	type component struct {
		Type    string `json:"type"`
		Name    string `json:"name"`
		Version string `json:"version"`
		PURL    string `json:"purl"`
	}
	bom := struct {
		Format   string `json:"bomFormat"`
		Spec     string `json:"specVersion"`
		Version  int    `json:"version"`
		Metadata struct {
			Component component `json:"component"`
		} `json:"metadata"`
		Components []component `json:"components"`
	}{Format: "CycloneDX", Spec: "1.5", Version: 1}
	golang := func(typ, path, version string) component {
		return component{Type: typ, Name: path, Version: version, PURL: "pkg:golang/" + path + "@" + version}
	}
	bom.Metadata.Component = golang("application", info.Main.Path, version)
	bom.Components = append(bom.Components, golang("library", "std", strings.TrimPrefix(info.GoVersion, "go")))
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		bom.Components = append(bom.Components, golang("library", m.Path, m.Version))
	}
	return json.MarshalIndent(bom, "", "  ")
}
