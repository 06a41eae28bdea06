package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/portico-ingress/portico/cmd/internal/program"
	"github.com/portico-ingress/portico/controllers/certs"
	"github.com/portico-ingress/portico/controllers/folder"
	"github.com/portico-ingress/portico/controllers/manifest"
	"github.com/portico-ingress/portico/router"
	"github.com/portico-ingress/portico/router/admin"
	"github.com/portico-ingress/portico/router/upstream"
)

type serveFlags struct {
	paths   []string
	routing routingFlags
	acme    acmeFlags
	proxy   proxyFlags
}

func newServe() *cobra.Command {
	f := &serveFlags{}
	cmd := &cobra.Command{
		Use:   "serve -f DIR|FILE|-",
		Short: "Serve manifests from a folder, without a cluster",
		Long: `Serve reads Ingress, IngressClass, Service, EndpointSlice, Endpoints and Secret
objects from YAML or JSON files and serves them. Other kinds are counted and
ignored. A change takes effect within a second; a faulty one is reported with
file, line and field, and the last good table keeps being served.

Hosts below localhost whose Secret is not among the manifests get a certificate
from the issuer local, a CA made on first use and constrained to localhost.
Ingresses that name another, of --acme-issuers or --acme-directory, get theirs
from it.`,
		Example: "  portico serve -f config/samples\n  kubectl get ing,svc,endpointslices,secrets -o yaml | portico serve -f -",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd.Context(), program.Streams{In: cmd.InOrStdin(), Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()})
		},
	}
	fs := cmd.Flags()
	fs.StringSliceVarP(&f.paths, "filename", "f", nil, "folder, file, or - for standard input; repeatable")
	f.routing.register(fs)
	f.acme.register(fs)
	f.acme.registerFolder(fs)
	f.proxy.register(fs, proxyDefaults{logFormat: "text", drainTimeout: shortDrain})
	return cmd
}

func (f *serveFlags) run(ctx context.Context, std program.Streams) error {
	r, err1 := f.routing.options()
	o, err2 := f.proxy.options()
	var err3 error
	if len(f.paths) == 0 {
		err3 = program.FlagError("filename", errors.New("name a folder or file of manifests, or - for standard input"))
	}
	issued, err4 := f.acme.certificates()
	if err := errors.Join(err3, checkPaths(f.paths), err1, err2, err4); err != nil {
		return program.UsageError(err)
	}
	f.proxy.Timeouts.DrainIdle = time.Second // a browser's idle connection must not hold up Ctrl-C
	log := f.proxy.Log.New(std.Err)
	defer issued.close()
	if issued != nil {
		switch has, err := issued.open(&f.acme, log.WithName("certificates")); {
		case err != nil:
			return err
		case !has:
			issued = nil
		default:
			o.tokens = issued.tokens
		}
	}
	p, err := newPlane(&f.proxy, o, r, true, std.Out, log)
	if err != nil {
		return err
	}
	opts := folder.Options{
		Paths: f.paths, Stdin: std.In, Translate: r.translate, Pools: defaultPools(r.router.Default),
		Publisher: p.publisher, Registry: p.registry, Certs: p.certs, Report: std.Err, Log: log.WithName("folder"),
	}
	parts, checks := together{}, p.published
	if issued != nil {
		ctl, err := issued.inFolder(ctx, p, log.WithName("certificates"))
		if err != nil {
			return err
		}
		opts.Observer, p.await = ctl, ctl.AwaitLocal
		checks = func() []admin.Check { return append(p.published(), given(ctl)) }
		parts = append(parts, alone{ctl})
	}
	parts = append(parts, folder.New(opts))
	go f.welcome(ctx, p, issued, std.Err)
	return p.run(ctx, parts, checks)
}

func given(ctl *certs.Controller) admin.Check {
	c := admin.Check{Name: "certificates", Ready: ctl.Given()}
	if !c.Ready {
		c.Detail = "those of localhost are being made"
	}
	return c
}

// together runs several parts as one; the first that fails ends the others.
type together []runnable

// Start runs the parts until ctx ends.
func (t together) Start(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, part := range t {
		group.Go(func() error { return part.Start(ctx) })
	}
	return group.Wait()
}

// checkPaths reports every path that cannot be read.
func checkPaths(paths []string) error {
	var errs []error
	for _, path := range paths {
		if _, err := os.Stat(path); path != manifest.Stdin && err != nil {
			errs = append(errs, program.FlagError("filename", err))
		}
	}
	return errors.Join(errs...)
}

func defaultPools(b *router.Backend) []upstream.Key {
	if b == nil {
		return nil
	}
	return []upstream.Key{upstream.Key(*b)}
}

func (p *plane) published() []admin.Check {
	if p.publisher.Snapshot() == nil {
		return []admin.Check{{Name: "table", Detail: "the first table has not been published"}}
	}
	return []admin.Check{{Name: "table", Ready: true}}
}

// welcome tells, once something is served, which URLs to open.
func (f *serveFlags) welcome(ctx context.Context, p *plane, issued *certificates, w io.Writer) {
	if p.awaitTable(ctx); p.await != nil {
		p.await(ctx)
	}
	if ctx.Err() != nil {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nServing %s. Open:\n", strings.Join(f.paths, ", "))
	urls, https := map[string]struct{}{}, false
	for _, h := range p.publisher.Snapshot().Table.Hosts() {
		if url := f.url(p, h); url != "" {
			urls[url] = struct{}{}
			https = https || strings.HasPrefix(url, "https:")
		}
	}
	if len(urls) == 0 {
		fmt.Fprintln(&b, "  nothing: no Ingress that is served names a host")
	}
	for _, url := range slices.Sorted(maps.Keys(urls)) {
		fmt.Fprintf(&b, "  %s\n", url)
	}
	if https && issued != nil && issued.local != nil {
		fmt.Fprintf(&b, "The CA of localhost, for curl --cacert and browsers: %s\n", issued.files.RootsFile(issued.local.Name))
	}
	if p.sockets.debug != nil {
		fmt.Fprintf(&b, "The table and all problems: http://%s/\n", p.sockets.debug.Addr())
	}
	fmt.Fprintln(&b, "Why a request goes where it goes: portico explain URL -f", strings.Join(f.paths, " -f "))
	_, _ = io.WriteString(w, b.String()+"\n")
}

// url returns an address at which a host of the table can be opened.
func (f *serveFlags) url(p *plane, h router.Host) string {
	if !h.Routed {
		return ""
	}
	name := h.Name
	if name == "" {
		name = "localhost"
	}
	name = strings.Replace(name, "*", "any", 1)
	if h.TLS != nil && p.sockets.https != nil {
		return fmt.Sprintf("https://%s:%d/", name, listenPort(p.sockets.https))
	}
	if p.sockets.http != nil {
		return fmt.Sprintf("http://%s:%d/", name, listenPort(p.sockets.http))
	}
	return ""
}
