// Package translate turns Kubernetes objects into what the router, the pools
// and the certificate store understand. It is pure: no client, no clock, no
// state. What is wrong with an object comes back as problems beside the usable
// rest.
package translate

import (
	"net/netip"

	"github.com/portico-ingress/portico/router/diag"
)

// DefaultControllerName is the IngressClass spec.controller that is ours
// unless the user says otherwise.
const DefaultControllerName = "portico.dev/ingress-controller"

// Options are what translation needs to know of the installation.
type Options struct {
	// ControllerNames are the values of IngressClass spec.controller that are
	// ours; empty: DefaultControllerName.
	ControllerNames []string
	// WatchWithoutClass serves Ingresses that name no class.
	WatchWithoutClass bool
	// Folder tells that the objects come from a folder: see Classes.Ours.
	Folder bool
	// ExternalNames allows Services of type ExternalName as backends.
	ExternalNames bool
	// ClusterDomain is the DNS domain of the cluster in its canonical form
	// (view.CanonicalHost); empty: cluster.local.
	ClusterDomain string
	// RequireVerification refuses TLS to backends that are not verified.
	RequireVerification bool
	// CheckAddr refuses addresses that must never be a backend; nil allows
	// all.
	CheckAddr func(netip.AddrPort) error
}

func (o Options) controllerNames() []string {
	if len(o.ControllerNames) == 0 {
		return []string{DefaultControllerName}
	}
	return o.ControllerNames
}

func (o Options) clusterDomain() string {
	if o.ClusterDomain == "" {
		return "cluster.local"
	}
	return o.ClusterDomain
}

// Reasons of the problems that translation finds.
const (
	ReasonInvalidHost    diag.Reason = "InvalidHost"
	ReasonInvalidPath    diag.Reason = "InvalidPath"
	ReasonInvalidBackend diag.Reason = "InvalidBackend"
	ReasonRegexPath      diag.Reason = "RegexPath"
	ReasonTLSWithoutHost diag.Reason = "TLSWithoutHost"
	ReasonAddressRefused diag.Reason = "AddressRefused"
	ReasonSliceIgnored   diag.Reason = "EndpointSliceIgnored"
	ReasonBackendMissing diag.Reason = "BackendNotServable"
	ReasonUnverified     diag.Reason = "BackendNotVerified"
	ReasonBackendSecret  diag.Reason = "BackendSecretUnusable"
	ReasonAppProtocol    diag.Reason = "UnknownAppProtocol"
)
