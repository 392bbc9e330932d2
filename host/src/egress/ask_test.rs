use std::rc::Rc;

use super::*;

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work)
}

fn subject(agent: usize, name: &str) -> Subject {
    Subject { agent, target: Target::Name(name.to_owned()), port: 443 }
}

/// A connection that asks, in a task of its own; it waits when this comes back.
async fn waits(questions: &Rc<Questions>, subject: Subject) -> tokio::task::JoinHandle<Answer> {
    let before: u64 = questions.list().iter().map(|question| question.connections).sum();
    let asking = Rc::clone(questions);
    let task = tokio::task::spawn_local(async move {
        asking.ask(subject, "the rule".to_owned(), |_| ()).await
    });
    while questions.list().iter().map(|question| question.connections).sum::<u64>() == before {
        tokio::task::yield_now().await;
    }
    task
}

#[test]
fn one_answer_is_for_all_that_wait_and_for_no_other() {
    run(async {
        let questions = Rc::<Questions>::default();
        let first = waits(&questions, subject(0, "a.example")).await;
        let second = waits(&questions, subject(0, "a.example")).await;
        let other = waits(&questions, subject(1, "a.example")).await;
        let list = questions.list();
        let shown = |question: &Question| (question.number, question.agent, question.connections);
        assert_eq!(list.iter().map(shown).collect::<Vec<_>>(), [(1, 0, 2), (2, 1, 1)]);
        assert_eq!((&*list[0].to, &*list[0].rule), ("a.example:443", "the rule"));
        assert_eq!(questions.answer(1, true, false).unwrap().to, "a.example:443");
        assert_eq!((first.await.unwrap(), second.await.unwrap()), (Answer::Yes, Answer::Yes));
        assert_eq!(questions.answer(1, true, false), Err(AnswerError::NoQuestion(1)));
        assert!(!other.is_finished());
        // It counted for those alone.
        let third = waits(&questions, subject(0, "a.example")).await;
        assert_eq!(questions.list()[1].number, 3);
        questions.answer(3, false, false).unwrap();
        assert_eq!(third.await.unwrap(), Answer::No);
        questions.clear();
        assert_eq!(other.await.unwrap(), Answer::OtherRules);
        assert!(questions.list().is_empty());
    });
}

#[test]
fn an_answer_is_kept_until_the_rules_change() {
    run(async {
        let questions = Rc::<Questions>::default();
        let first = waits(&questions, subject(0, "a.example")).await;
        questions.answer(1, false, true).unwrap();
        assert_eq!(first.await.unwrap(), Answer::No);
        let again = |agent, name| questions.ask(subject(agent, name), String::new(), |_| ());
        assert_eq!(again(0, "a.example").await, Answer::No);
        let second = waits(&questions, subject(0, "b.example")).await;
        questions.answer(2, true, true).unwrap();
        assert_eq!(second.await.unwrap(), Answer::Yes);
        assert_eq!(again(0, "b.example").await, Answer::Yes);
        questions.clear();
        let asked = waits(&questions, subject(0, "b.example")).await;
        assert_eq!(questions.list()[0].number, 3);
        asked.abort();
    });
}

#[test]
fn no_answer_is_a_no_and_leaves_no_question() {
    run(async {
        tokio::time::pause();
        let questions = Rc::<Questions>::default();
        let told = Cell::new(0);
        let asked =
            questions.ask(subject(0, "a.example"), String::new(), |number| told.set(number));
        assert_eq!(asked.await, Answer::None);
        assert!(told.get() == 1 && questions.list().is_empty());
        // Whoever does not wait takes the question along.
        let gone = waits(&questions, subject(0, "a.example")).await;
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        assert!(questions.list().is_empty());
    });
}

#[test]
fn questions_and_answers_are_bounded() {
    run(async {
        let questions = Rc::<Questions>::default();
        let mut asking = Vec::new();
        for number in 0..MAX_QUESTIONS_AGENT {
            asking.push(waits(&questions, subject(0, &format!("{number}.example"))).await);
        }
        let more = questions.ask(subject(0, "more.example"), String::new(), |_| ());
        assert_eq!(more.await, Answer::TooMany);
        // Of another agent there is room.
        asking.push(waits(&questions, subject(1, "more.example")).await);
        questions.clear();
        for number in 0..MAX_KEPT_ANSWERS {
            let asked = waits(&questions, subject(0, &format!("{number}.example"))).await;
            let number = questions.list()[0].number;
            questions.answer(number, true, true).unwrap();
            assert_eq!(asked.await.unwrap(), Answer::Yes);
        }
        let asked = waits(&questions, subject(0, "more.example")).await;
        let number = questions.list()[0].number;
        assert_eq!(questions.answer(number, true, true), Err(AnswerError::TooMany));
        questions.answer(number, true, false).unwrap();
        assert_eq!(asked.await.unwrap(), Answer::Yes);
    });
}
