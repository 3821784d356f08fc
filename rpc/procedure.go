package rpc

import (
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
)

// procedure is one method of a service, as its schema declares it.
type procedure struct {
	service, method string // "gw.v1.ConfigService", "GetResource"
	// readOnly: it has no side effects and may be repeated.
	readOnly                 bool
	clientStream, serverSide bool // which side streams
}

func (p procedure) unary() bool { return !p.clientStream && !p.serverSide }

// path is where it is served.
func (p procedure) path() string { return "/" + p.service + "/" + p.method }

// procedures are all of this package's schema, by path.
func procedures() map[string]procedure {
	all := map[string]procedure{}
	pkg := gwv1.File_gw_v1_cluster_proto.Package()
	protoregistry.GlobalFiles.RangeFilesByPackage(pkg, func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				p := procedureOf(s, s.Methods().Get(j))
				all[p.path()] = p
			}
		}
		return true
	})
	return all
}

func procedureOf(s protoreflect.ServiceDescriptor, m protoreflect.MethodDescriptor) procedure {
	options, _ := m.Options().(*descriptorpb.MethodOptions)
	return procedure{
		service: string(s.FullName()), method: string(m.Name()),
		readOnly:     options.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS,
		clientStream: m.IsStreamingClient(), serverSide: m.IsStreamingServer(),
	}
}

// The services of the TLS port; all others are an admin's.
const (
	edgeService = gwv1connect.EdgeServiceName
	hubService  = gwv1connect.HubServiceName
)
