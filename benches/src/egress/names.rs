//! A name server that knows one name: the server's, at the loopback address.

use std::net::Ipv4Addr;

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, SOA};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

use super::HOST;

/// How long an answer is good, in seconds. The gate keeps answers, so the server is asked before the first round alone, or
/// once more if all takes longer.
const TTL: u32 = 3600;
/// Times for other name servers of the same zone, of which there are none.
const SECONDS: i32 = 3600;
/// Longest query that is read, in bytes (RFC 1035, section 4.2.1).
const MAX_QUERY: usize = 512;

/// Answers queries for ever.
pub async fn serve(socket: UdpSocket) {
    let mut query = [0; MAX_QUERY];
    while let Ok((length, sender)) = socket.recv_from(&mut query).await {
        if let Some(answer) = query.get(..length).and_then(answer) {
            // Who is gone asks again.
            socket.send_to(&answer, sender).await.ok();
        }
    }
}

/// The answer to a query; `None` if it is none.
fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let asked = query.queries.first()?.clone();
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    let known = asked.name().to_ascii().trim_end_matches('.').eq_ignore_ascii_case(HOST);
    if known && asked.query_type() == RecordType::A {
        let address = RData::A(A(Ipv4Addr::LOCALHOST));
        answer.add_answer(Record::from_rdata(asked.name().clone(), TTL, address));
    } else {
        // Without it nobody keeps an answer that there is nothing (RFC 2308, section 5).
        let begin = SOA::new(Name::root(), Name::root(), 1, SECONDS, SECONDS, SECONDS, TTL);
        answer.add_authority(Record::from_rdata(Name::root(), TTL, RData::SOA(begin)));
    }
    if !known {
        answer.metadata.response_code = ResponseCode::NXDomain;
    }
    answer.add_query(asked);
    answer.to_vec().ok()
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::op::Query;

    use super::*;

    fn ask(name: &str, kind: RecordType) -> Message {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        Message::from_vec(&answer(&query.to_vec().unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn one_name_has_one_address() {
        let known = ask("bench.example.", RecordType::A);
        assert_eq!(known.answers.first().unwrap().data, RData::A(A(Ipv4Addr::LOCALHOST)));
        assert_eq!(known.metadata.response_code, ResponseCode::NoError);
        let other_kind = ask("bench.example.", RecordType::AAAA);
        assert!(other_kind.answers.is_empty() && other_kind.authorities.len() == 1);
        assert_eq!(other_kind.metadata.response_code, ResponseCode::NoError);
        let unknown = ask("other.example.", RecordType::A);
        assert_eq!(unknown.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(answer(b"no query"), None);
    }
}
